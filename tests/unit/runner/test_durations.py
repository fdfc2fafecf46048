"""The cache of durations."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import unittest
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as some

from orchestrator.runner.durations import Durations, Memory


def _record(folder: str, worker: int) -> None:
    for number in range(10):
        Durations(Path(folder)).record({f"test.Class{worker}x{number}": 1.0})


class DurationsTest(unittest.TestCase):
    """Durations."""

    def setUp(self) -> None:
        """Have a folder."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name) / ".orchestrator"
        self.durations = Durations(self.folder)

    def test_nothing_yet(self) -> None:
        """Without a file nothing is known, and reading makes none."""
        self.assertEqual(Memory(), self.durations.read())
        self.assertFalse(self.folder.exists())

    def test_slow_run_fades(self) -> None:
        """New figures are averaged with the old."""
        self.durations.record({"a.A": 1.0, "a.B": 2.0})
        self.durations.record({"a.A": 3.0})
        self.assertEqual({"a.A": 2.0, "a.B": 2.0}, self.durations.read().seconds)

    def test_git_ignores_it(self) -> None:
        """The folder ignores itself."""
        self.durations.record({"a.A": 1.0})
        self.assertEqual("*\n", (self.folder / ".gitignore").read_text())

    def test_parallel_writers(self) -> None:
        """Figures of runs at the same time are all kept."""
        processes = [
            multiprocessing.get_context("spawn").Process(
                target=_record, args=(str(self.folder), worker)
            )
            for worker in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        self.assertEqual(20, len(self.durations.read().seconds))
        self.assertEqual(
            {".gitignore", "durations.json", "lock"}, {path.name for path in self.folder.iterdir()}
        )

    @settings(max_examples=40)
    @given(some.data())
    def test_damage(self, data: some.DataObject) -> None:
        """Whatever stands in the file, reading gives figures that can be used."""
        value = data.draw(
            some.recursive(
                some.none() | some.booleans() | some.floats() | some.text(max_size=5),
                lambda inner: (
                    some.lists(inner, max_size=3)
                    | some.dictionaries(
                        some.sampled_from(
                            ["version", "seconds", "plans", "shards", "started", "x"]
                        ),
                        inner,
                        max_size=4,
                    )
                ),
            )
        )
        body = (
            {"version": 1, "seconds": value, "plans": {}} if data.draw(some.booleans()) else value
        )
        text = json.dumps(body)
        cut = data.draw(some.integers(0, len(text)))
        self.folder.mkdir(exist_ok=True)
        (self.folder / "durations.json").write_text(
            text[:cut] if data.draw(some.booleans()) else text
        )
        memory = self.durations.read()
        self.assertTrue(all(0 <= seconds < float("inf") for seconds in memory.seconds.values()))
