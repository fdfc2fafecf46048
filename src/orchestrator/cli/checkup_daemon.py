"""What `doctor` asks first: is there a daemon, and may this user talk to it."""

from __future__ import annotations

import errno
import getpass
import grp
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.finding import Finding
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.engine.api import EngineInfo
    from orchestrator.engine.docker import Engine
    from orchestrator.engine.endpoint import Endpoint

_PATIENCE = 5.0  # seconds for a local socket to accept


@dataclass(frozen=True, kw_only=True)
class DaemonCheck:
    """How the daemon is.

    Attributes:
        answers: Whether the rest can be examined.
        info: What it says about itself; None when it does not.
    """

    finding: Finding
    answers: bool
    info: EngineInfo | None = None


def check_socket(endpoint: Endpoint) -> Finding | None:
    """What keeps this user from the daemon's socket; None when nothing does."""
    path = endpoint.socket
    if path is None:
        return None
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_PATIENCE)
            client.connect(path)
    except OSError as error:
        return _socket_problem(path, error)
    return None


def _socket_problem(path: str, error: OSError) -> Finding:
    if isinstance(error, PermissionError):
        return _no_permission(path)
    text, mend = f"no Docker daemon: there is no socket {path}", _start()
    if isinstance(error, ConnectionRefusedError):
        text = f"no Docker daemon: nobody listens on {path}; it ended without removing it"
    elif error.errno in (errno.ENOTSOCK, errno.EPROTOTYPE):
        text, mend = f"{path} is not the socket of a Docker daemon", "unset DOCKER_HOST"
    elif not isinstance(error, FileNotFoundError):
        text = f"the Docker daemon's socket {path} does not accept: {error}"
        mend = _start("restart")
    return Finding(about="daemon", text=text, mend=mend)


def check_daemon(engine: Engine, endpoint: Endpoint) -> DaemonCheck:
    """Whether the daemon answers, and which one it is."""
    try:
        info = engine.info()
    except EngineError as error:
        if error.status is not None:
            return DaemonCheck(
                finding=refusal("daemon", str(error), paths=["/info", "/version"]), answers=True
            )
        mend = _start("restart") if endpoint.socket else f"docker -H {endpoint.url} version"
        return DaemonCheck(
            finding=Finding(about="daemon", text=str(error), mend=mend), answers=False
        )
    text = (
        f"Docker {info.version} (API {info.api_version}) at {endpoint.url}, "
        f"{info.os}/{info.architecture}, {info.cpus} CPUs, {info.memory / 1e9:.1f} GB memory"
    )
    return DaemonCheck(finding=Finding(about="daemon", text=text), answers=True, info=info)


def refusal(about: str, text: str, *, paths: Iterable[str]) -> Finding:
    """What a daemon that answers does not answer, such as one behind a filtering proxy."""
    mend = f"if a filter stands before the daemon, let it allow GET {', '.join(paths)}"
    return Finding(about=about, text=text, mend=mend)


def _start(verb: str = "start") -> str:
    if shutil.which("dockerd") is None and shutil.which("docker") is None:
        if shutil.which("apt-get"):
            return "sudo apt-get install docker.io"
        return "install Docker: https://docs.docker.com/engine/install"
    if Path("/run/systemd/system").is_dir():
        return f"sudo systemctl {verb} docker"
    if os.uname().sysname == "Darwin":
        return "open -a Docker"
    return f"sudo service docker {verb}"


def _no_permission(path: str) -> Finding:
    user = _user()
    try:
        group = grp.getgrgid(Path(path).stat().st_gid)
    except (OSError, KeyError):
        text = f"user {user} may not reach the Docker daemon's socket {path}: permission denied"
        return Finding(about="daemon", text=text, mend=f"sudo ls -ld {Path(path).parent} {path}")
    text = f"user {user} may not use the Docker daemon's socket {path} (group {group.gr_name})"
    if user in group.gr_mem:
        text += "; the user is in that group, but not since this log-in"
        return Finding(about="daemon", text=text, mend=f"newgrp {group.gr_name}")
    if group.gr_gid == 0:
        text += "; Docker usually gives its socket to a group docker"
        mend = (
            f"sudo groupadd -f docker && sudo usermod -aG docker {user} && sudo chgrp docker {path}"
        )
        return Finding(about="daemon", text=text, mend=mend)
    mend = f"sudo usermod -aG {group.gr_name} {user} && newgrp {group.gr_name}"
    return Finding(about="daemon", text=text, mend=mend)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return str(os.getuid())
