"""What a handle makes when it is first asked, and only once, whoever asks at the same moment."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Made = TypeVar("Made")


class ProcessLock:
    """A reentrant lock of one process.

    What another thread holds when a process forks would stay locked in the child for ever, because
    that thread is not there to let go. So a child has a lock of its own.
    """

    def __init__(self) -> None:
        self._locks: dict[int, threading.RLock] = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold it while the block runs."""
        with self._locks.setdefault(os.getpid(), threading.RLock()):
            yield


class once(Generic[Made]):  # noqa: N801 - a decorator, as functools.cached_property
    """A property that is made when first read, by one thread, and kept.

    ``functools.cached_property`` makes it twice when two threads come at the same moment (Python
    3.12), or lets every object wait for any other (before).
    """

    def __init__(self, make: Callable[[Any], Made]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Made: ...

    def __get__(self, instance: object | None, owner: type) -> Self | Made:
        """Make it; from then on Python finds it in the object itself, and does not ask us."""
        if instance is None:
            return self
        kept = vars(instance)
        lock: ProcessLock = kept.setdefault(f"{self._name}, being made", ProcessLock())
        with lock.held():
            if self._name not in kept:
                kept[self._name] = self._make(instance)
        made: Made = kept[self._name]
        return made
