"""Asking several registries at once."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE: Final = 8


def abreast(do: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Do something for several items at once; the results in their order.

    In threads that no exit waits for: a pool's are joined when the process ends, so that Ctrl-C
    would wait for a registry that stalls.

    Raises:
        Exception: What was raised for the first item for which something was.
    """
    turns = threading.Semaphore(_AT_ONCE)

    def one(item: T, result: Future[R]) -> None:
        with turns:
            try:
                result.set_result(do(item))
            except BaseException as error:  # noqa: BLE001  # raised where it is waited for
                result.set_exception(error)

    results: list[Future[R]] = [Future() for _ in items]
    for pair in zip(items, results, strict=True):
        threading.Thread(target=one, args=pair, name="abreast", daemon=True).start()
    return [result.result() for result in results]
