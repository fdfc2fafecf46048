"""Order, memory, shards, and the cache of durations they rest on."""

import multiprocessing
import os
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from orchestrator import Kafka, Postgres, Redis, Service, ServicesMixin
from orchestrator.runner.collect import can_start_ahead, memory_of_services
from orchestrator.runner.history import FOLDER, History, Past, in_shard
from orchestrator.runner.options import Shard
from orchestrator.runner.results import Test, Unit, UnitResult
from orchestrator.runner.schedule import Schedule


def _unit(name: str, *, tests: int = 1, memory: int | None = None) -> Unit:
    key = f"m.{name}"
    return Unit(
        key=key,
        tests=tuple(Test(id=f"{key}.test_{n}", owner=key, title="") for n in range(tests)),
        services={} if memory is None else {key: (memory,)},
    )


def _schedule(
    *units: Unit, budget: int | None = None, ahead: int | None = None, **recorded: float
) -> Schedule:
    return Schedule(
        [UnitResult(unit=unit, order=range(len(unit.tests))) for unit in units],
        recorded={f"m.{name}": seconds for name, seconds in recorded.items()},
        seed=None,
        budget=budget,
        ahead=ahead,
    )


def _drain(plan: Schedule) -> list[str]:
    return [result.unit.key for _ in range(len(plan)) if (result := plan.next([])) is not None]


class ScheduleTest(unittest.TestCase):
    """Which unit is next, and what fits beside what runs."""

    def test_longest_first(self) -> None:
        """Recorded times decide; without, classes with services, then those with many tests."""
        plan = _schedule(_unit("A"), _unit("B"), _unit("C"), A=1, B=3, C=2)
        self.assertEqual(["m.B", "m.C", "m.A"], _drain(plan))
        plan = _schedule(_unit("A"), _unit("B", tests=50), _unit("C", memory=64), _unit("D"))
        self.assertEqual(["m.C", "m.B", "m.A", "m.D"], _drain(plan))

    def test_waits_until_it_fits(self) -> None:
        """A class does not start beside others that leave too little memory; a smaller one does."""
        units = [_unit(name, memory=memory) for name, memory in zip("ABC", (6, 6, 3), strict=True)]
        plan = _schedule(*units, _unit("D"), budget=10, A=4, B=3, C=2, D=1)
        running: list[UnitResult] = []
        while (result := plan.next(running)) is not None:
            running.append(result)
        self.assertEqual(["m.A", "m.C", "m.D"], [result.unit.key for result in running])
        alone = _schedule(_unit("A", memory=20), budget=10)
        self.assertIsNotNone(alone.next([]), "larger than the whole budget")

    def test_started_ahead(self) -> None:
        """Only what is next, if it can start before its turn, and fits beside all that runs."""
        can, cannot = (
            replace(_unit(name, memory=6), ahead=ahead)
            for name, ahead in (("A", True), ("B", False))
        )
        running = [UnitResult(unit=_unit("R", memory=6), order=[0])]
        for units, free, expected in (
            ((can, cannot), 12, "m.A"),
            ((can, cannot), 11, None),
            ((can, cannot), None, "m.A"),
            ((cannot, can), 12, None),
        ):
            plan = _schedule(*units, ahead=free)
            found = plan.next_ahead(running)
            self.assertEqual(expected, found and found.unit.key, (units[0].key, free))
            self.assertEqual(1 if found else 2, len(plan))

    def test_what_can_start_ahead(self) -> None:
        """A class whose own code does not run before its services start; no shared ones."""

        class First(ServicesMixin, unittest.TestCase):
            cache = Redis()

            @classmethod
            def setUpClass(cls) -> None:
                """Say so."""
                super().setUpClass()
                os.environ.pop("NO_SUCH", None)

        class Before(First):
            @classmethod
            def setUpClass(cls) -> None:
                os.environ.pop("NO_SUCH", None)
                super().setUpClass()

        class Inherits(Before): ...

        class Shared(First):
            queue = Redis(scope="process")

        class Migrated(First):
            db = Postgres(migrate=print)

        class PerTest(ServicesMixin, unittest.TestCase):
            cache = Redis(scope="test")

        class Skipped(First):
            __unittest_skip__ = True

        class Lasting(First):
            db = Postgres(migrate=print, fingerprint=[__file__])

        can = (First, Lasting)
        cannot = (Before, Inherits, Shared, Migrated, PerTest, Skipped, unittest.TestCase)
        self.assertEqual([*can], [cls for cls in (*can, *cannot) if can_start_ahead(cls)])

    def test_a_service_says_itself_what_it_usually_takes(self) -> None:
        """Its limit of memory counts, and without one its class's word; a user's own class too."""

        class Small(Service):
            usual_memory: ClassVar[int] = 5

        class Declares(ServicesMixin, unittest.TestCase):
            events = Kafka()
            db = Postgres(memory="100m")
            own = Small()

        self.assertEqual((768 << 20, 100 << 20, 5), memory_of_services(Declares))


class HistoryTest(unittest.TestCase):
    """What earlier runs left."""

    def setUp(self) -> None:
        """Have a folder."""
        self.project = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.folder = self.project / FOLDER
        self.history = History(self.project)

    def test_kept(self) -> None:
        """Reading makes no file; figures are averaged with the old, in a folder git ignores."""
        self.assertEqual(Past(), self.history.read())
        self.assertFalse(self.folder.exists())
        self.history.record({"a.A": 1.0, "a.B": 2.0})
        self.history.record({"a.A": 3.0})
        self.assertEqual({"a.A": 2.0, "a.B": 2.0}, self.history.read().seconds)
        self.assertEqual("*\n", (self.folder / ".gitignore").read_text())

    def test_parallel_writers(self) -> None:
        """Figures of runs at the same time are all kept."""
        context = multiprocessing.get_context("fork")
        writers = [context.Process(target=self._write_ten, args=(number,)) for number in range(2)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        self.assertEqual(20, len(self.history.read().seconds))

    def test_damage(self) -> None:
        """Whatever stands in the file, reading gives what can be used, and writing mends it."""
        damaged = '{"version": 1, "seconds": {"a": -1, "b": "x", "c": NaN, "d": 2}, "plans": []}'
        self.folder.mkdir()
        for text, seconds in (
            ("", {}),
            ("[]", {}),
            ("[" * 100_000, {}),
            ('{"version": 2, "seconds": {"d": 2}, "plans": []}', {}),
            ('{"version": 1, "seconds": [], "plans": []}', {}),
            ('{"version": 1, "seconds": {"d": 2}, "plans": [{"name": "x"}]}', {}),
            ('{"version": 1, "seconds": {"d": 2}, "plans": [], "failed": 3}', {}),
            (damaged[:40], {}),
            (damaged, {"d": 2.0}),
        ):
            (self.folder / "durations.json").write_text(text)
            self.assertEqual(seconds, self.history.read().seconds, text[:80])
        self.history.record({"e": 1.0})
        self.assertEqual({"d": 2.0, "e": 1.0}, self.history.read().seconds)

    def test_plan_of_a_set(self) -> None:
        """What a shard records moves no class within a set; the next set is balanced anew."""
        units = [_unit(name) for name in "ABCDEFG"]
        first, plan, _ = in_shard(units, Shard(number=1, count=2), self.history)
        self.history.record({unit.key: 100.0 for unit in first})
        second, same, _ = in_shard(units, Shard(number=2, count=2), self.history)
        self.assertEqual(plan, same)
        self.assertEqual(units, sorted([*first, *second], key=lambda unit: unit.key))
        self.history.record({unit.key: 1.0 for unit in units} | {"m.G": 1000.0})
        self.assertIn([units[-1]], self._shards(units, 2))

    def test_plan_of_other_tests(self) -> None:
        """A class that is new since the plan was made is in exactly one shard."""
        units = [_unit(name) for name in "ABC"]
        in_shard(units, Shard(number=1, count=2), self.history)
        units.append(_unit("New"))
        shards = [unit for shard in self._shards(units, 2) for unit in shard]
        self.assertEqual(units, sorted(shards, key=units.index))

    def test_more_shards_than_classes(self) -> None:
        """The first shards have a class each, the others none, however many there are."""
        units = [_unit("A"), _unit("B")]
        shards = [Shard(number=n, count=10**9) for n in (1, 2, 3)]
        found = [in_shard(units, shard, self.history)[0] for shard in shards]
        self.assertEqual([[units[0]], [units[1]], []], found)

    def _write_ten(self, writer: int) -> None:
        for number in range(10):
            self.history.record({f"test.Class{writer}x{number}": 1.0})

    def _shards(self, units: list[Unit], count: int) -> list[list[Unit]]:
        numbers = range(1, count + 1)
        return [in_shard(units, Shard(number=n, count=count), self.history)[0] for n in numbers]
