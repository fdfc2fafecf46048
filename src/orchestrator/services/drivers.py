"""Python drivers, imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from orchestrator.errors import MissingDriverError

if TYPE_CHECKING:
    from types import ModuleType


def driver(module: str, /, *, extra: str) -> ModuleType:
    """Import a driver.

    Raises:
        MissingDriverError: It is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # the driver is there, but something it needs is broken: say that
        raise MissingDriverError(
            f"The Python package {module!r} is not installed. "
            f"Run: pip install 'unittest-orchestrator[{extra}]'"
        ) from error
