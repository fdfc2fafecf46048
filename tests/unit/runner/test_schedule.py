"""Order, shards and memory."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import ClassVar

from orchestrator import Kafka, Postgres, Service, ServicesMixin
from orchestrator.runner import schedule, services
from orchestrator.runner.arguments import Shard
from orchestrator.runner.durations import Durations
from orchestrator.runner.ledger import Account
from orchestrator.runner.schedule import Schedule, estimate, in_shard, memory_of
from orchestrator.runner.unit import Declared, Test, Unit

MIB = 1 << 20


def _unit(name: str, *, tests: int = 1, memory: int | None = None) -> Unit:
    key = f"m.{name}"
    declared_by: dict[str, tuple[Declared, ...]] = {}
    if memory is not None:
        declared = Declared(alias="db", scope="class", memory=memory * MIB)
        declared_by = {key: (declared,)}
    return Unit(
        key=key,
        tests=tuple(
            Test(id=f"{key}.test_{number}", owner=key, title="") for number in range(tests)
        ),
        files={},
        services=declared_by,
    )


def _schedule(*units: Unit, budget: int | None = None, **recorded: float) -> Schedule:
    return Schedule(
        [Account(unit=unit, order=range(len(unit.tests))) for unit in units],
        recorded={f"m.{name}": seconds for name, seconds in recorded.items()},
        seed=None,
        budget=None if budget is None else budget * MIB,
    )


class OrderTest(unittest.TestCase):
    """Which unit is next."""

    def test_longest_first(self) -> None:
        """Recorded times decide."""
        plan = _schedule(_unit("A"), _unit("B"), _unit("C"), A=1, B=3, C=2)
        self.assertEqual(["m.B", "m.C", "m.A"], _drain(plan))

    def test_nothing_recorded(self) -> None:
        """Without records, classes with services start first, then those with many tests."""
        plan = _schedule(_unit("A"), _unit("B", tests=50), _unit("C", memory=64), _unit("D"))
        self.assertEqual(["m.C", "m.B", "m.A", "m.D"], _drain(plan))

    def test_new_class_is_no_short_one(self) -> None:
        """A class without a record counts as long as the usual one."""
        self.assertEqual(5.0, estimate(_unit("New"), {"m.A": 1.0, "m.B": 5.0, "m.C": 9.0}))


class MemoryTest(unittest.TestCase):
    """What fits beside what runs."""

    def test_waits_until_it_fits(self) -> None:
        """A class does not start beside others that leave too little memory; a smaller one does."""
        plan = _schedule(
            _unit("A", memory=600),
            _unit("B", memory=600),
            _unit("C", memory=300),
            budget=1000,
            A=3,
            B=2,
            C=1,
        )
        first = plan.next([])
        assert first is not None
        second = plan.next([first])
        assert second is not None
        self.assertEqual("m.C", second.unit.key)
        self.assertIsNone(plan.next([first, second]))

    def test_too_large_for_the_budget(self) -> None:
        """A class larger than the whole budget runs alone, not never."""
        plan = _schedule(_unit("A", memory=2000), budget=1000)
        self.assertIsNotNone(plan.next([]))

    def test_classes_without_services(self) -> None:
        """Classes without services always fit."""
        plan = _schedule(_unit("A", memory=900), _unit("B"), budget=1000, A=2, B=1)
        first = plan.next([])
        assert first is not None
        self.assertIsNotNone(plan.next([first]))

    def test_a_service_says_itself_what_it_usually_takes(self) -> None:
        """Its limit of memory counts, and without one its class's word; a user's own class too."""

        class Small(Service):
            usual_memory: ClassVar[int] = 5 * MIB

        class Declares(ServicesMixin, unittest.TestCase):
            events = Kafka()
            db = Postgres(memory="100m")
            own = Small()

        unit = Unit(key="m.A", tests=(), files={}, services={"m.A": services.of(Declares)})
        self.assertEqual((768 + 100 + 5) * MIB, memory_of(unit))


class ShardTest(unittest.TestCase):
    """Shards."""

    def setUp(self) -> None:
        """Have a cache."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.durations = Durations(Path(folder.name) / "cache")
        self.units = [_unit(name) for name in "ABCDEFG"]

    def test_balanced(self) -> None:
        """Recorded times spread evenly, however uneven they are."""
        self.durations.record(
            dict(zip([unit.key for unit in self.units], (9, 5, 4, 4, 3, 2, 1), strict=True))
        )
        self.assertEqual([10, 9, 9], sorted(map(self._seconds, self._shards(3)), reverse=True))

    def test_same_plan_although_durations_change(self) -> None:
        """What one shard records does not move classes between the shards of the same set."""
        first, plan = self._shard(1, 2)
        self.durations.record({unit.key: 100.0 for unit in first})
        second, same = self._shard(2, 2)
        self.assertEqual(plan, same)
        self.assertEqual({unit.key for unit in self.units}, {u.key for u in [*first, *second]})

    def test_new_plan_for_the_next_set(self) -> None:
        """Once every shard has run, the next set is balanced anew."""
        before, _ = self._shard(1, 2)
        self._shard(2, 2)
        self.durations.record({unit.key: 1.0 for unit in self.units} | {"m.G": 1000.0})
        shards = self._shards(2)
        self.assertIn([self.units[-1]], shards)
        self.assertNotIn(before, shards)

    def test_other_tests_other_plan(self) -> None:
        """A class that is new since the plan was made is in exactly one shard."""
        self._shard(1, 2)
        self.units.append(_unit("New"))
        keys = [unit.key for units in self._shards(2) for unit in units]
        self.assertEqual(sorted(unit.key for unit in self.units), sorted(keys))

    def _shard(self, number: int, count: int) -> tuple[list[Unit], str]:
        return in_shard(self.units, Shard(number=number, count=count), self.durations)

    def _shards(self, count: int) -> list[list[Unit]]:
        return [self._shard(number, count)[0] for number in range(1, count + 1)]

    def _seconds(self, units: list[Unit]) -> float:
        recorded = self.durations.read().seconds
        return sum(recorded[unit.key] for unit in units)


class ShuffleTest(unittest.TestCase):
    """Shuffling."""

    def test_repeats(self) -> None:
        """The same seed gives the same order; every test is in it once."""
        unit = _unit("A", tests=20)
        self.assertEqual(schedule.shuffled(unit, "1"), schedule.shuffled(unit, "1"))
        self.assertEqual(list(range(20)), sorted(schedule.shuffled(unit, "1")))
        self.assertNotEqual(schedule.shuffled(unit, "1"), schedule.shuffled(unit, "2"))


def _drain(plan: Schedule) -> list[str]:
    return [account.unit.key for _ in range(len(plan)) if (account := plan.next([])) is not None]
