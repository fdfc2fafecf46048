"""What runs when: which shard, in which order, and beside what."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from orchestrator.runner.durations import Plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.runner.arguments import Shard
    from orchestrator.runner.durations import Durations, Memory
    from orchestrator.runner.ledger import Account
    from orchestrator.runner.unit import Unit

_SECONDS_PER_TEST: Final = 0.01
_SECONDS_PER_SERVICE: Final = 2.0


def owners(unit: Unit) -> list[str]:
    """The classes of a unit, in order."""
    return list(dict.fromkeys(test.owner for test in unit.tests))


def estimate(unit: Unit, recorded: Mapping[str, float]) -> float:
    """How long a unit will take, in seconds: as last time, else by what it declares."""
    counts: dict[str, int] = defaultdict(int)
    for test in unit.tests:
        counts[test.owner] += 1
    usual = sorted(recorded.values())[len(recorded) // 2] if recorded else 0.0
    return sum(
        recorded[owner]
        if owner in recorded
        else max(usual, count * _SECONDS_PER_TEST)
        + _SECONDS_PER_SERVICE * len(unit.services.get(owner, ()))
        for owner, count in counts.items()
    )


def memory_of(unit: Unit) -> int:
    """The most that a unit's services may hold at once, in bytes; classes run one by one."""
    return max(
        (sum(service.memory for service in declared) for declared in unit.services.values()),
        default=0,
    )


def in_shard(units: Sequence[Unit], shard: Shard, durations: Durations) -> tuple[list[Unit], str]:
    """The units of one shard, and the name of the plan they come from.

    Shards with the same plan name fit together: each unit is in exactly one of them.
    """
    collection = hashlib.sha256(
        "\n".join(sorted(f"{unit.key} {test.id}" for unit in units for test in unit.tests)).encode(
            errors="surrogatepass"
        )
    ).hexdigest()
    name = f"{shard.count}:{collection[:16]}"
    with durations.changing() as memory:
        plan = memory.plans.pop(name, None)
        whole = set(range(1, shard.count + 1))
        if (
            plan is None
            or set(plan.shards) != {unit.key for unit in units}
            or (
                plan.started >= whole  # a set is complete: this shard begins the next
            )
        ):
            plan = _planned(units, shard.count, memory)
        plan.started.add(shard.number)
        memory.plans[name] = plan
    printed = hashlib.sha256(repr(sorted(plan.shards.items())).encode()).hexdigest()[:8]
    return [unit for unit in units if plan.shards[unit.key] == shard.number], printed


def _planned(units: Iterable[Unit], count: int, memory: Memory) -> Plan:
    """Longest first, each into the shard that has least so far."""
    loads = [0.0] * count
    shards = {}
    weighed = sorted((-estimate(unit, memory.seconds), unit.key) for unit in units)
    for negative, key in weighed:
        lightest = loads.index(min(loads))
        loads[lightest] -= negative
        shards[key] = lightest + 1
    return Plan(shards=shards)


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


class Schedule:
    """The units that wait, in the order they should start.

    With a memory budget, a unit starts only when its services fit beside those of the units that
    run; one that is larger than the whole budget runs alone.
    """

    def __init__(
        self,
        accounts: Sequence[Account],
        *,
        recorded: Mapping[str, float],
        seed: str | None,
        budget: int | None,
    ) -> None:
        self._budget = budget
        self._recorded = recorded
        self._waiting = list(accounts)
        if seed is not None:
            random.Random(seed).shuffle(self._waiting)  # noqa: S311 - an order, not a secret
        else:
            # stable: of equals, the first collected starts first
            self._waiting.sort(key=lambda account: -estimate(account.unit, recorded))

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def seconds(self) -> float:
        """How long what waits will take one worker."""
        return sum(estimate(account.unit, self._recorded) for account in self._waiting)

    def next(self, running: Sequence[Account]) -> Account | None:
        """Take the next unit that may start beside those that run."""
        used = sum(memory_of(account.unit) for account in running)
        for account in self._waiting:
            need = memory_of(account.unit)
            if self._budget is None or not need or not used or used + need <= self._budget:
                self._waiting.remove(account)
                return account
        return None

    def put_back(self, account: Account) -> None:
        """Run what a crash left over, before anything else."""
        self._waiting.insert(0, account)

    def clear(self) -> None:
        """Start nothing more."""
        self._waiting.clear()
