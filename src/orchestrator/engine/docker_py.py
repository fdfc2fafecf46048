"""docker-py, imported without paramiko: half of the import's time, for one kind of address.

At an address ``ssh://`` we have docker-py run the ``ssh`` program, which needs no paramiko; but
docker-py's module for such addresses imports it all the same. So that module is imported when an
adapter of it is made, which goes for the test's own use of docker-py as well.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any, Final

_SSH: Final = "docker.transport.sshconn"

_ours: Final = "docker" not in sys.modules
if _ours:
    sys.modules[_SSH] = None  # type: ignore[assignment] # importing it fails, which docker-py expects
try:
    import docker
    import docker.auth
    import docker.errors
    import docker.tls
    import docker.types
    import docker.utils
    import docker.utils.build
finally:
    if _ours:
        del sys.modules[_SSH]

__all__ = ["docker"]


class _NoParamiko(ModuleType):
    """Stands for paramiko where it is not installed: whoever needs more than its name is told."""

    def __getattr__(self, name: str) -> Any:
        raise ImportError(f"paramiko.{name}: paramiko is not installed. Run: pip install paramiko")


def _adapter(*arguments: Any, **options: Any) -> Any:
    """What docker-py makes for an address ``ssh://``."""
    try:
        module = importlib.import_module(_SSH)
    except ImportError:  # paramiko is not installed
        kept = {name: it for name, it in sys.modules.items() if name == "paramiko"}
        sys.modules["paramiko"] = _NoParamiko("paramiko")
        try:
            module = importlib.import_module(_SSH)
        finally:
            del sys.modules["paramiko"]
            sys.modules.update(kept)
    return module.SSHHTTPAdapter(*arguments, **options)


for _module in map(importlib.import_module, ("docker.transport", "docker.api.client")):
    if not hasattr(_module, "SSHHTTPAdapter"):
        vars(_module)["SSHHTTPAdapter"] = _adapter
