"""What runs when, and what fits beside what on this machine."""

from __future__ import annotations

import os
import random
import re
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.runner.history import estimates, failed_in, in_shard, is_import
from orchestrator.runner.results import UnitResult, some

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from orchestrator.runner.history import History
    from orchestrator.runner.options import Options
    from orchestrator.runner.results import Unit

_SHARE: Final = 0.8  # of the free memory: the workers themselves need some, and everyone else
_MEMINFO: Final = Path("/proc/meminfo")
_STAT: Final = Path("/proc/stat")
_LOOK: Final = 0.08  # seconds for which idle processors are counted
_CGROUP: Final = Path("/sys/fs/cgroup")  # of version 2: this process's own, in a container


class Schedule:
    """The units that wait, in the order they should start: the longest first, or shuffled."""

    def __init__(
        self,
        units: Sequence[UnitResult],
        *,
        recorded: Mapping[str, float],  # how many seconds each class took last time
        seed: str | None,  # what to shuffle by, if at all
        budget: int | None,  # bytes that all services may use; a unit that needs more runs alone
        ahead: int | None = None,  # the same, for what is started before its turn comes
        first: Collection[str] = (),  # keys of units that come before all others
    ) -> None:
        self._budget = budget
        self._ahead_budget = ahead
        self._seconds = estimates((waiting.unit for waiting in units), recorded)
        self._waiting = list(units)
        self.seconds = sum(self._seconds.values())  # that what waits will take one worker
        if seed is not None:
            random.Random(seed).shuffle(self._waiting)  # noqa: S311 - an order, not a secret
        else:
            # stable: of equals, the first collected starts first
            self._waiting.sort(key=lambda waiting: -self._seconds[waiting.unit.key])
        self._waiting.sort(key=lambda waiting: waiting.unit.key not in first)

    def __len__(self) -> int:
        return len(self._waiting)

    def next(
        self, running: Sequence[UnitResult], *, ran: Collection[str] = ()
    ) -> UnitResult | None:
        """Take the next unit that may start beside those that run, in a worker that ran others."""
        used = _memory(*running)
        for waiting in self._waiting:
            fits = not _memory(waiting) or not used or _fits(used, waiting, self._budget)
            if waiting.unit.key not in ran and fits:
                return self._taken(waiting)
        return None

    def next_ahead(
        self, running: Sequence[UnitResult], *, ran: Collection[str] = ()
    ) -> UnitResult | None:
        """Take the unit that would be next if its services can, and may, start before its turn."""
        waiting = self.first_for(ran)
        if waiting is None or not waiting.unit.ahead:
            return None
        if not _fits(_memory(*running), waiting, self._ahead_budget):
            return None
        return self._taken(waiting)

    def _taken(self, unit: UnitResult) -> UnitResult:
        self._waiting.remove(unit)
        self.seconds -= self._seconds[unit.unit.key]
        return unit

    @property
    def starts_ahead(self) -> bool:
        """Whether what is next is of the kind whose services can start before its turn."""
        return bool(self._waiting) and self._waiting[0].unit.ahead

    def first_for(self, ran: Collection[str]) -> UnitResult | None:
        """What waits longest for a worker that ran these units: of those it holds no test."""
        return next((it for it in self._waiting if it.unit.key not in ran), None)

    def put_back(self, unit: UnitResult, *, last: bool = False) -> None:
        """Run what a crash left over before anything else, or what failed when all else is over."""
        self._waiting.insert(len(self._waiting) if last else 0, unit)
        self.seconds += self._seconds[unit.unit.key]

    def clear(self) -> None:
        """Start nothing more."""
        self._waiting.clear()


def _memory(*units: UnitResult) -> int:
    """The most that the services of units may hold at once, in bytes; classes run one by one."""
    return sum(max(map(sum, it.unit.services.values()), default=0) for it in units)


def _fits(used: int, unit: UnitResult, budget: int | None) -> bool:
    return budget is None or used + _memory(unit) <= budget


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


def _reordered(unit: Unit, order: Sequence[int], *, first: Collection[int]) -> list[int]:
    """The unit's ordinals, some first, and their classes; the tests of a class stay together."""
    owners = [*dict.fromkeys(unit.tests[it].owner for it in [*sorted(first), *order])]
    return sorted(order, key=lambda it: (owners.index(unit.tests[it].owner), it not in first))


def choose(
    units: Sequence[Unit], options: Options, *, history: History, note: Callable[[str], None]
) -> tuple[list[UnitResult], Schedule]:
    """Choose what runs of what was collected, and in which order; what follows from it is noted.

    The units of which some test runs are as they were collected; the schedule is of the same ones.
    """
    everything, seed, past = units, options.shuffle, history.read()
    before: Collection[str] = past.failed
    if options.shard is not None:
        units, plan, before = in_shard(everything, options.shard, history)
        note(f"Shard {options.shard}: {len(units)} of {len(everything)} classes (plan {plan})")
    first = _failed_before(everything, before, note=note) if options.failed else {}
    if seed is not None:
        seed = seed or str(random.randrange(1, 10**6))  # noqa: S311 - no secret
        note(f"Shuffle seed: {seed} (repeat with --shuffle={seed})")
    results = []
    for unit in units:
        order: Sequence[int] = range(len(unit.tests)) if seed is None else shuffled(unit, seed)
        if first and options.failed == "only":
            order = [ordinal for ordinal in order if ordinal in first.get(unit.key, ())]
        elif unit.key in first:
            order = _reordered(unit, order, first=first[unit.key])
        if order:
            results.append(UnitResult(unit=unit, order=order, retries=options.retries))
    free = memory_budget()
    schedule = Schedule(
        results,
        recorded=past.seconds,
        seed=seed,
        budget=free if options.jobs is None else None,
        ahead=free,
        first=first,
    )
    return results, schedule


def _failed_before(
    units: Sequence[Unit], ids: Collection[str], *, note: Callable[[str], None]
) -> Mapping[str, Collection[int]]:
    """The ordinals of what failed when it last ran, by unit; empty when nothing did."""
    found = failed_in(units, ids)
    here = {unit.tests[ordinal].id for unit in units for ordinal in found.get(unit.key, ())}
    count, gone = len(here), [it for it in {*ids} - here if not is_import(it)]
    text = f"{count} test{'s'[: count != 1]} failed when last run"
    note(text if count else "No test failed when last run: every test runs")
    if gone:
        note(f"Not among these tests: {some(gone)}")
    return found


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


def memory_budget() -> int:
    """Bytes that all services together may use."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # where nothing else is known
    with suppress(OSError):
        if found := re.search(r"MemAvailable: +(\d+) kB", _MEMINFO.read_text(encoding="ascii")):
            free = int(found[1]) * 1024
    with suppress(OSError, ValueError):  # "max" is no number: there is no limit
        limit, usage = (int((_CGROUP / f"memory.{it}").read_text()) for it in ("max", "current"))
        free = min(free, max(0, limit - usage))
    return int(free * _SHARE)
