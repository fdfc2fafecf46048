"""Python drivers, imported when first used."""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from typing import TYPE_CHECKING, Final

from orchestrator.errors import MissingDriverError
from orchestrator.services.once import ProcessLock

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType


_importing: Final = ProcessLock()


def driver(module: str, /, *, extra: str | None = None) -> ModuleType:
    """Import a driver, without the warnings about deprecated Python in its own code.

    Args:
        module: Its name.
        extra: Our extra that brings it; without one the user chose it, and installs it by its name.

    Raises:
        MissingDriverError: It is not installed; the message says what to install.
    """
    if sys.modules.get(module) is not None:
        return importlib.import_module(module)
    try:
        # The lock, because the filters of warnings belong to the process, not to the thread.
        with _importing.held(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # the driver is there, but something it needs is broken: say that
        package = f"'unittest-orchestrator[{extra}]'" if extra else module.partition(".")[0]
        raise MissingDriverError(
            f"The Python package {module!r} is not installed. Run: pip install {package}"
        ) from error


def load_early(modules: Iterable[str]) -> None:
    """Import drivers ahead of time; one that cannot be imported raises when it is first used."""
    for module in modules:
        with contextlib.suppress(Exception):
            driver(module)
