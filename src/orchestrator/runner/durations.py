"""How long each class took last time, kept in ``.orchestrator/`` between runs.

A cache: whatever is wrong with the file, the run goes on without it. Parallel writers merge under a
lock, and readers never see half a file.
"""

from __future__ import annotations

import fcntl
import json
import math
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from orchestrator.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FOLDER: Final = ".orchestrator"
_VERSION: Final = 1
_PLANS_KEPT: Final = 16


@dataclass(kw_only=True)
class Plan:
    """Which shard each unit belongs to, fixed until every shard of it has started.

    The shards of one set must agree although each of them records durations: the first one that
    starts decides for all.

    Attributes:
        shards: Unit key to shard number, from 1.
        started: The shards that have started.
    """

    shards: dict[str, int]
    started: set[int] = field(default_factory=set)


@dataclass(kw_only=True)
class Memory:
    """What earlier runs left: seconds by class and shard plans by name."""

    seconds: dict[str, float] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)


class Durations:
    """The cache of one working directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "durations.json"

    def read(self) -> Memory:
        """What earlier runs left; nothing when the file is missing or damaged."""
        try:
            return _revived(json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return Memory()

    @contextmanager
    def changing(self) -> Iterator[Memory]:
        """Read, let the caller change, write; other runs wait. Failing to write is no error."""
        with suppress(OSError):
            self._prepare()
        with self._locked():
            memory = self.read()
            yield memory
            with suppress(OSError):
                self._write(memory)

    def record(self, seconds: Mapping[str, float]) -> None:
        """Merge new figures with the old: the mean of both, so that one slow run fades."""
        if not seconds:
            return
        with self.changing() as memory:
            for key, new in seconds.items():
                old = memory.seconds.get(key, new)
                memory.seconds[key] = round((old + new) / 2, 4)

    def _prepare(self) -> None:
        self._folder.mkdir(exist_ok=True)
        ignore = self._folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            lock = (self._folder / "lock").open("a")
        except OSError:  # a read-only checkout: nothing will be written anyway
            yield
            return
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, memory: Memory) -> None:
        recent = list(memory.plans.items())[-_PLANS_KEPT:]
        body = {
            "version": _VERSION,
            "seconds": dict(sorted(memory.seconds.items())),
            "plans": {
                name: {"shards": plan.shards, "started": sorted(plan.started)}
                for name, plan in recent
            },
        }
        with replacing(self._path) as file:
            file.write(json.dumps(body, indent=1).encode())


def _revived(body: Any) -> Memory:
    """Check what was read: a hand or a crash may have changed it."""
    if body["version"] != _VERSION:
        return Memory()
    seconds = {
        str(key): float(value)
        for key, value in body["seconds"].items()
        if isinstance(value, int | float) and 0 <= value < math.inf
    }
    plans = {
        str(name): Plan(
            shards={str(key): int(shard) for key, shard in plan["shards"].items()},
            started={int(shard) for shard in plan["started"]},
        )
        for name, plan in body["plans"].items()
    }
    return Memory(seconds=seconds, plans=plans)
