"""What runs leave for the next: how long classes took, what failed, and who runs which shard."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from orchestrator.files import replacing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestrator.runner.options import Shard
    from orchestrator.runner.results import Unit

FOLDER: Final = ".orchestrator"
_FAILED: Final = "unittest.loader._FailedTest."
_PLANS_KEPT: Final = 16
_SECONDS_PER_TEST: Final = 0.01
_SECONDS_PER_SERVICE: Final = 2.0


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
        """Merge new figures of classes with the old: the mean of both, so that a slow run fades.

        A test that has neither passed nor failed is what it was; what is not `known` is forgotten.
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
        """Take what can be used of what was read; any exception means that nothing can."""
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


def failed_in(units: Iterable[Unit], failed: Collection[str]) -> dict[str, set[int]]:
    """The ordinals of the tests that are known to have failed, by unit.

    Where a module could not be imported, that is all of its tests.
    """
    modules = tuple(f"{it.removeprefix(_FAILED)}." for it in failed if is_import(it))
    known = frozenset(failed)
    found: dict[str, set[int]] = defaultdict(set)
    for unit in units:
        for ordinal, test in enumerate(unit.tests):
            if test.id in known or test.id.startswith(modules):
                found[unit.key].add(ordinal)
    return found


def is_import(id_: str) -> bool:
    """Whether a test stands for a module that could not be imported."""
    return id_.startswith(_FAILED)


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
            or len({*plan["started"]}) == shard.count  # this begins the next set
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
    loads = [0.0] * min(count, len(units))  # no more can have one
    shards = {}
    known = estimates(units, recorded)
    for key in sorted(known, key=lambda key: (-known[key], key)):
        lightest = loads.index(min(loads))
        loads[lightest] += known[key]
        shards[key] = lightest + 1
    return shards


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
