"""Running test classes from within a test, and checking that nothing of them is left."""

import io
import unittest
from collections.abc import Sequence

from orchestrator import Compose, Service, ServicesMixin
from orchestrator.engine import connect, find_endpoint
from orchestrator.engine.api import Label
from orchestrator.sessions import KINDS, Thing, own_session, snapshot
from orchestrator.settings import Settings


def run_class(cls: type[unittest.TestCase]) -> unittest.TestResult:
    """Run all tests of a class as unittest does, quietly."""
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(cls)
    return unittest.TextTestRunner(stream=io.StringIO(), verbosity=0).run(suite)


def problems(result: unittest.TestResult) -> str:
    """The text of every error and failure."""
    return "\n".join(text for _, text in [*result.errors, *result.failures])


def left_of_this_process() -> Sequence[Thing]:
    """What the daemon still has of this process's session.

    Without what lives as long as the process: images that were built (`BuildLifetimeTest` sees them
    go), servers of no class (scope="process"), and snapshots that only this process knows.
    """
    settings = Settings.from_environment()
    endpoint = find_endpoint()
    engine = connect(settings, endpoint=endpoint)
    try:
        session = own_session(engine, settings=settings)
        session.departing.awaited(kinds=KINDS)  # of classes that are over
        found = snapshot(engine, {Label.SESSION: session.id})[0]
        return [it for it in found if it.kind != "image" and Label.CLASS in it.labels]
    finally:
        engine.close()


class LeakCheckedTestCase(unittest.TestCase):
    """Fails a test after which the daemon still has something of this process."""

    def setUp(self) -> None:
        """Check after everything else has been cleaned up."""
        super().setUp()
        self.addCleanup(self._check_nothing_is_left)

    def _check_nothing_is_left(self) -> None:
        self.assertEqual([], [f"{found.kind} {found.name}" for found in left_of_this_process()])

    def assert_passes(self, cls: type[unittest.TestCase]) -> unittest.TestResult:
        """Run a class and expect that all its tests, at least one, pass."""
        result = run_class(cls)
        self.assertEqual([], result.errors + result.failures, problems(result))
        self.assertGreater(result.testsRun, 0)
        return result

    def assert_cannot_start(self, *expected: str, **services: Service | Compose) -> str:
        """Run a class that declares these, and expect one error whose text has all these parts."""
        body = {**services, "test_it": lambda _: None}
        return self.assert_error(
            type("Broken", (ServicesMixin, unittest.TestCase), body), *expected
        )

    def assert_error(self, cls: type[unittest.TestCase], *expected: str, reports: int = 1) -> str:
        """Run a class and expect so many errors and failures, whose text has all these parts."""
        result = run_class(cls)
        text = problems(result)
        self.assertEqual(reports, len(result.errors) + len(result.failures), text)
        for part in expected:
            self.assertIn(part, text)
        return text
