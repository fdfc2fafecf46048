"""What runs when: how long classes take, which shard they are in, and what fits beside what."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import random
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from orchestrator.files import replacing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from orchestrator.runner.options import Shard
    from orchestrator.runner.results import Unit, UnitResult

FOLDER: Final = ".orchestrator"
_FAILED: Final = "unittest.loader._FailedTest."
_PLANS_KEPT: Final = 16
_SECONDS_PER_TEST: Final = 0.01
_SECONDS_PER_SERVICE: Final = 2.0
_SHARE: Final = 0.8  # of the free memory: the workers themselves need some, and everyone else
_MEMINFO: Final = Path("/proc/meminfo")
_STAT: Final = Path("/proc/stat")
_LOOK: Final = 0.08  # seconds for which idle processors are counted
_CGROUP: Final = Path("/sys/fs/cgroup")  # of version 2: this process's own, in a container


class Schedule:
    """The units that wait, in the order they should start: the longest first, or shuffled.

    Args:
        units: The units.
        recorded: How many seconds each class took last time.
        seed: What to shuffle by, or None for the longest first.
        first: Keys of units that come before all others.
        budget: Bytes that all services together may use; a unit that needs more runs alone.
        ahead: The same, for what is started before its turn comes.
    """

    def __init__(
        self,
        units: Sequence[UnitResult],
        *,
        recorded: Mapping[str, float],
        seed: str | None,
        budget: int | None,
        ahead: int | None = None,
        first: Collection[str] = (),
    ) -> None:
        self._budget = budget
        self._ahead_budget = ahead
        self._seconds = estimates((waiting.unit for waiting in units), recorded)
        self._waiting = list(units)
        if seed is not None:
            random.Random(seed).shuffle(self._waiting)  # noqa: S311 - an order, not a secret
        else:
            # stable: of equals, the first collected starts first
            self._waiting.sort(key=lambda waiting: -self._seconds[waiting.unit.key])
        self._waiting.sort(key=lambda waiting: waiting.unit.key not in first)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def seconds(self) -> float:
        """How long what waits will take one worker."""
        return sum(self._seconds[waiting.unit.key] for waiting in self._waiting)

    def next(
        self, running: Sequence[UnitResult], *, ran: Collection[str] = ()
    ) -> UnitResult | None:
        """Take the next unit that may start beside those that run, in a worker that ran others."""
        used = sum(memory_of(result.unit) for result in running)
        for waiting in self._waiting:
            if waiting.unit.key in ran:
                continue
            need = memory_of(waiting.unit)
            if self._budget is None or not need or not used or used + need <= self._budget:
                self._waiting.remove(waiting)
                return waiting
        return None

    def next_ahead(
        self, running: Sequence[UnitResult], *, ran: Collection[str] = ()
    ) -> UnitResult | None:
        """Take the unit that would be next if its services can, and may, start before its turn."""
        waiting = self.first_for(ran)
        used = sum(memory_of(result.unit) for result in running)
        if waiting is None or not waiting.unit.ahead:
            return None
        if self._ahead_budget is not None and used + memory_of(waiting.unit) > self._ahead_budget:
            return None
        self._waiting.remove(waiting)
        return waiting

    @property
    def starts_ahead(self) -> bool:
        """Whether what is next is of the kind whose services can start before its turn."""
        return bool(self._waiting) and self._waiting[0].unit.ahead

    def first_for(self, ran: Collection[str]) -> UnitResult | None:
        """What waits longest for a worker that ran these units."""
        return next((it for it in self._waiting if it.unit.key not in ran), None)

    def has_none_for(self, ran: Collection[str]) -> bool:
        """Whether nothing waits for a worker that ran these units: it holds no test any more."""
        return self.first_for(ran) is None

    def put_back(self, unit: UnitResult, *, last: bool = False) -> None:
        """Run what a crash left over before anything else, or what failed when all else is over."""
        self._waiting.insert(len(self._waiting) if last else 0, unit)

    def clear(self) -> None:
        """Start nothing more."""
        self._waiting.clear()


def estimates(units: Iterable[Unit], recorded: Mapping[str, float]) -> dict[str, float]:
    """How long each unit will take, in seconds: as last time, else by what it declares."""
    usual = sorted(recorded.values())[len(recorded) // 2] if recorded else 0.0

    def seconds(unit: Unit, owner: str, tests: int) -> float:
        unknown = max(usual, tests * _SECONDS_PER_TEST)
        unknown += len(unit.services.get(owner, ())) * _SECONDS_PER_SERVICE
        return recorded.get(owner, unknown)

    return {
        unit.key: sum(
            seconds(unit, owner, tests)
            for owner, tests in Counter(test.owner for test in unit.tests).items()
        )
        for unit in units
    }


def memory_of(unit: Unit) -> int:
    """The most that a unit's services may hold at once, in bytes; classes run one by one."""
    return max(map(sum, unit.services.values()), default=0)


def shuffled(unit: Unit, seed: str) -> list[int]:
    """The unit's ordinals in random order; the tests of a class stay together."""
    by_owner: dict[str, list[int]] = defaultdict(list)
    for ordinal, test in enumerate(unit.tests):
        by_owner[test.owner].append(ordinal)
    generator = random.Random(f"{seed} {unit.key}")  # noqa: S311 - an order, not a secret
    groups = list(by_owner.values())
    generator.shuffle(groups)
    for group in groups:
        generator.shuffle(group)
    return [ordinal for group in groups for ordinal in group]


def reordered(unit: Unit, order: Sequence[int], *, first: Collection[int]) -> list[int]:
    """The unit's ordinals, some first, and their classes; the tests of a class stay together."""
    owners = [unit.tests[ordinal].owner for ordinal in [*first, *order]]
    return sorted(order, key=lambda it: (owners.index(unit.tests[it].owner), it not in first))


def failed_in(unit: Unit, failed: Collection[str]) -> list[int]:
    """The ordinals of the tests that are known to have failed.

    Where a module could not be imported, that is all of its tests.
    """
    modules = tuple(f"{it.removeprefix(_FAILED)}." for it in failed if is_import(it))
    return [
        ordinal
        for ordinal, test in enumerate(unit.tests)
        if test.id in failed or test.id.startswith(modules)
    ]


def is_import(id_: str) -> bool:
    """Whether a test stands for a module that could not be imported."""
    return id_.startswith(_FAILED)


# What earlier runs left


class History:
    """What runs leave in ``.orchestrator/`` for the next: times, what failed, shards' plans.

    A cache: whatever is wrong with the file, the run goes on without it. Parallel writers merge
    under a lock, and readers never see half a file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._path = self._folder / "durations.json"

    def read(self) -> Past:
        """What earlier runs left; nothing when the file is missing or damaged."""
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return Past.of(json.loads(self._path.read_text(encoding="utf-8")))
        return Past()

    @contextmanager
    def changing(self) -> Iterator[Past]:
        """Read, let the caller change, write; other runs wait. Failing to write is no error."""
        with ExitStack() as stack:
            with suppress(OSError):  # a read-only checkout: nothing will be written anyway
                self._folder.mkdir(exist_ok=True)
                if not (ignore := self._folder / ".gitignore").exists():
                    ignore.write_text("*\n", encoding="utf-8")
                fcntl.flock(stack.enter_context((self._folder / "lock").open("a")), fcntl.LOCK_EX)
            past = self.read()
            yield past
            with suppress(OSError), replacing(self._path) as file:
                file.write(json.dumps(vars(past), indent=1, sort_keys=True).encode())

    def record(
        self,
        seconds: Mapping[str, float],
        *,
        passed: Collection[str] = (),
        failed: Collection[str] = (),
        known: Collection[str] | None = None,
    ) -> None:
        """Merge new figures with the old: the mean of both, so that one slow run fades.

        Args:
            seconds: Of each class.
            passed: The ids of the tests that passed.
            failed: Of those that failed; what did neither is what it was.
            known: Of all that there are, if that is known: what is gone is forgotten.
        """
        with self.changing() as past:
            for key, new in seconds.items():
                past.seconds[key] = round((past.seconds.get(key, new) + new) / 2, 4)
            left = {*past.failed}.difference(passed).union(failed)
            past.failed = sorted(left if known is None else left.intersection(known))


@dataclass(kw_only=True)
class Past:
    """What stands in the file."""

    version: int = 1
    seconds: dict[str, float] = field(default_factory=dict)  # of each class
    failed: list[str] = field(default_factory=list)  # the ids of tests, when they last ran
    plans: list[Plan] = field(default_factory=list)  # the latest last

    @classmethod
    def of(cls, body: Any) -> Past:
        """Take what can be used of what was read: a hand or a crash may have changed it.

        Raises:
            Exception: There is nothing that can be used.
        """
        past = cls()
        if body["version"] == past.version:
            past.seconds = {
                str(key): float(value)
                for key, value in body["seconds"].items()
                if isinstance(value, int | float) and 0 <= value < math.inf
            }
            past.failed = list(map(str, body.get("failed", ())))
            past.plans = list(map(_plan, body["plans"]))
        return past


# Shards

Plan: TypeAlias = dict[str, Any]
"""Which shard each unit is in, until every shard of the set has started.

The shards of one set must agree although each of them records durations: the first one that starts
decides for all. A plan has a ``name``, by the tests that it is of, the number of each unit's shard
in ``shards``, the numbers of those that have ``started``, and what had ``failed`` before.
"""


def _plan(body: Any) -> Plan:
    shards = {str(key): int(number) for key, number in body["shards"].items()}
    started, failed = list(map(int, body["started"])), list(map(str, body["failed"]))
    return {"name": str(body["name"]), "shards": shards, "started": started, "failed": failed}


def in_shard(
    units: Sequence[Unit], shard: Shard, history: History
) -> tuple[list[Unit], str, Collection[str]]:
    """The units of one shard, the name of the plan they come from, and what had failed then.

    Shards with the same plan name fit together: each unit is in exactly one of them.
    """
    tests = "\n".join(sorted(f"{unit.key} {test.id}" for unit in units for test in unit.tests))
    name = f"{shard.count}:{_digest(tests)[:16]}"
    with history.changing() as past:
        known = [plan for plan in past.plans if plan["name"] == name]
        others = [plan for plan in past.plans if plan["name"] != name]
        plan = known[0] if known else {"shards": {}, "started": [], "failed": []}
        if (
            plan["shards"].keys() != {unit.key for unit in units}
            or {*plan["started"]} >= {*range(1, shard.count + 1)}  # this begins the next set
        ):
            shards = _balanced(units, shard.count, past.seconds)
            plan = {"name": name, "shards": shards, "started": [], "failed": past.failed}
        plan["started"].append(shard.number)
        past.plans = [*others, plan][-_PLANS_KEPT:]
    printed = _digest(repr(sorted(plan["shards"].items())))[:8]
    ours = [unit for unit in units if plan["shards"][unit.key] == shard.number]
    return ours, printed, frozenset(plan["failed"])


def _balanced(units: Sequence[Unit], count: int, recorded: Mapping[str, float]) -> dict[str, int]:
    """Longest first, each into the shard that has least so far."""
    loads = [0.0] * count
    shards = {}
    known = estimates(units, recorded)
    for key in sorted(known, key=lambda key: (-known[key], key)):
        lightest = loads.index(min(loads))
        loads[lightest] += known[key]
        shards[key] = lightest + 1
    return shards


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


# This machine


def cpus() -> int:
    """The CPUs this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Idle:
    """How many processors of this machine have nothing to do."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Look at what is from now on."""
        self._since, self._idle = time.monotonic(), _idle_seconds()
        self._found = 0.0

    @property
    def processors(self) -> float:
        """How many had nothing to do the last time that it was looked at for long enough."""
        now = time.monotonic()
        if now - self._since >= _LOOK:
            if (idle := _idle_seconds()) is None or self._idle is None:
                self._found = cpus() - os.getloadavg()[0]
            else:
                self._found = (idle - self._idle) / (now - self._since)
            self._since, self._idle = now, idle
        return self._found


def _idle_seconds() -> float | None:
    """Since the machine was started, of all processors together; None where it does not say."""
    with suppress(OSError, ValueError, IndexError):
        idle, waits = _STAT.read_text(encoding="ascii").split(maxsplit=6)[4:6]
        return (int(idle) + int(waits)) / os.sysconf("SC_CLK_TCK")
    return None


def memory_budget() -> int | None:
    """Bytes that all services together may use, or None when this cannot be known."""
    known = [free for free in (_free_memory(), _free_in_group()) if free is not None]
    return int(min(known) * _SHARE) if known else None


def _free_memory() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _free_in_group() -> int | None:
    with suppress(OSError, ValueError):  # "max" is no number: there is no limit
        limit, usage = (int((_CGROUP / f"memory.{it}").read_text()) for it in ("max", "current"))
        return max(0, limit - usage)
    return None
