"""What is made or imported once whichever thread asks first; a lock and a stack that know forks."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import os
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from orchestrator.errors import MissingDriverError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import ModuleType, TracebackType

Made = TypeVar("Made")


class ProcessLock:
    """A reentrant lock that a forked child does not find locked: it has one of its own.

    What another thread holds at the fork would stay locked in the child, where that thread is not.
    """

    def __init__(self) -> None:
        self._locks: dict[int, threading.RLock] = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold it while the block runs."""
        with self._locks.setdefault(os.getpid(), threading.RLock()):
            yield

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        """Be pickled as a new one."""
        return type(self), ()


class OwnStack(contextlib.ExitStack):
    """An exit stack that does nothing in a forked child; a pickle or deep copy of it is empty."""

    def __init__(self) -> None:
        super().__init__()
        self._owner = os.getpid()
        self._pinned = False

    def pin(self) -> None:
        """Have its content undone by `close` alone, never by being forgotten.

        A generator that is let go of, by the interpreter at its exit for one, runs its last lines.
        """
        if not self._pinned:
            _api().Py_IncRef(self)
            self._pinned = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> bool:
        """Undo everything, the last first; nothing in a forked child."""
        if os.getpid() != self._owner:
            self.pin()
            return False
        try:
            return bool(super().__exit__(kind, error, trace))
        finally:
            if self._pinned:
                self._pinned = False
                _api().Py_DecRef(self)

    def pop_all(self) -> Self:
        """Hand everything to a new stack; nothing in a forked child."""
        if os.getpid() != self._owner:
            self.pin()
            return type(self)()
        return super().pop_all()

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        """Be pickled with nothing in it."""
        return type(self), ()


@functools.cache
def _api() -> Any:
    import ctypes  # takes 6 ms, which declarations need not pay

    api = ctypes.pythonapi
    for function in (api.Py_IncRef, api.Py_DecRef):
        function.argtypes = [ctypes.py_object]
    return api


class locked_property(Generic[Made]):  # noqa: N801 - a decorator, as functools.cached_property
    """A property that is computed when it is first read, by one thread, and kept.

    ``functools.cached_property`` makes it twice when two threads come at the same moment (Python
    3.12), or lets every object wait for any other (before).
    """

    def __init__(self, make: Callable[[Any], Made]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    def __get__(self, instance: object | None, owner: type) -> Made:
        """Make it; from then on Python finds it in the object itself, and does not ask us."""
        if instance is None:
            return self  # type: ignore[return-value]  # of no use to anybody but help()
        kept = vars(instance)
        lock: ProcessLock = kept.setdefault(f"{self._name}, being made", ProcessLock())
        with lock.held():
            if self._name not in kept:
                kept[self._name] = self._make(instance)
        made: Made = kept[self._name]
        return made


_importing: Final = ProcessLock()


def driver(module: str, /, *, extra: str | None = None) -> ModuleType:
    """Import a driver, without the warnings about deprecated Python in its own code.

    Raises:
        MissingDriverError: It is not installed: `extra` of ours brings it, or else its own name.
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
        raise _missing(module, extra) from error


def _missing(module: str, extra: str | None, *, of: str = "") -> MissingDriverError:
    package = f"'unittest-orchestrator[{extra}]'" if extra else module.partition(".")[0]
    return MissingDriverError(
        f"{of}The Python package {module!r} is not installed. Run: pip install {package}"
    )


def check_installed(modules: Mapping[str, str | None], *, of: str) -> None:
    """Raise MissingDriverError unless top-level modules can be found, none of which is imported.

    Args:
        modules: Name to the extra of ours that brings it, if one does.
        of: Who cannot do without them.
    """
    for module, extra in modules.items():
        if sys.modules.get(module) is None and importlib.util.find_spec(module) is None:
            raise _missing(module, extra, of=f"{of}: ")


def load_early(modules: Iterable[str]) -> None:
    """Import drivers ahead of time; one that cannot be imported raises when it is first used."""
    with importing_much():
        for module in modules:
            with contextlib.suppress(Exception):
                driver(module)


@contextlib.contextmanager
def importing_much() -> Iterator[None]:
    """Have no garbage looked for meanwhile: modules are none, and the search takes a tenth."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
