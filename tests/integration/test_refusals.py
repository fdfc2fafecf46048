"""A daemon that cuts connections, refuses for a moment, or may not be asked everything."""

import re
import threading
from collections.abc import Callable, Sequence
from typing import Final

from orchestrator.engine import find_endpoint
from tests.faults.daemon import no_sweeps
from tests.faults.proxy import CUT, Proxy, answer, good
from tests.support.processes import ProcessTestCase

_SUITE = """
    import atexit
    import os
    import unittest
    from orchestrator import Redis, ServicesMixin
    from orchestrator.environment import context

    class FirstTest(ServicesMixin, unittest.TestCase):
        cache = Redis()

        def test_it(self):
            self.assertTrue(self.cache.client.ping())
"""


_RUNNERS: Final = (
    ("unittest", "test_suite"),
    ("orchestrator", "test", "-j", "1", "test_suite.py"),
)


class Times:
    """Answers the first requests that begin so, each with the next of these answers."""

    def __init__(self, pattern: str, *answers: bytes) -> None:
        self._pattern = re.compile(pattern)
        self._answers = list(answers)
        self._lock = threading.Lock()
        self.asked = 0

    def __call__(self, line: str) -> bytes | None:
        """The answer to a request; None for the daemon's own."""
        with self._lock:
            if not self._pattern.match(line):
                return None
            self.asked += 1
            return self._answers.pop(0) if self._answers else None


class RefusalTest(ProcessTestCase):
    """Runs a class with one Redis on the real daemon, through a proxy that misbehaves."""

    def run_suite(
        self,
        instead: Callable[[str], bytes | None],
        *,
        more: str = "",
        runner: Sequence[str] = ("unittest", "test_suite"),
    ) -> tuple[int, str]:
        """Exit status and output of ``python -m unittest``, or of another runner."""
        proxy = self.enterContext(Proxy(find_endpoint().url, instead=instead))
        self.environ.update(DOCKER_HOST=proxy.url)
        self.enterContext(no_sweeps(proxy.url))  # what others left dead would be counted, too
        self.write("test_suite.py", _SUITE + more)
        ran = self.run_python("-m", *runner)
        self.await_nothing_left()  # through this proxy, while it is there
        return ran

    def test_no_daemon_behind_it(self) -> None:
        """A forwarder that cuts all answers is a skip; one cut, a refusal, other words an error."""
        said = [
            Times("", *[CUT] * 20),
            Times("", *[answer(403, "forbidden")] * 20),
            Times("", *[good(b"{}")] * 20),
            Times("", CUT),
            Times(r"POST \S*/networks/create", good(b"{}")),
            Times(r"POST \S*/containers/create", CUT),
        ]
        url = find_endpoint().url
        proxies = [self.enterContext(Proxy(url, instead=instead)) for instead in said]
        self.environ.update(ORCHESTRATOR_SKIP_WITHOUT_DOCKER="1", DOCKER_HOST=proxies[0].url)
        more = "".join(
            f"""
    class More{number}Test(FirstTest):
        @classmethod
        def setUpClass(cls):
            os.environ["DOCKER_HOST"] = {proxy.url!r}
            super().setUpClass()
"""
            for number, proxy in enumerate(proxies[1:])
        )
        self.write("test_suite.py", _SUITE + more)
        status, output = self.run_python("-m", "unittest", "test_suite")
        self.assertEqual(1, status, output)
        wrong = re.findall("What is at .* refuses, or is no|cannot be understood", output)
        self.assertEqual(3, len(wrong), output)
        self.assertRegex(output, "EngineError: .*The connection .* broke .*create container")
        self.assertIn("errors=4, skipped=1", output)
        self.assertNotIn("Start it", output)
        self.await_nothing_left()  # through these proxies, while they are there

    def test_class_clean_up(self) -> None:
        """A lost answer, a busy device, somebody else's removal and active endpoints pass."""
        container = Times(
            r"DELETE \S*/containers/",
            CUT,
            answer(409, "removal of container 1 is already in progress"),
            answer(500, "unable to remove filesystem: device or resource busy"),
        )
        network = Times(
            r"DELETE \S*/networks/",
            *[answer(403, "error while removing network: network x has active endpoints")] * 4,
        )
        status, output = self.run_suite(lambda line: container(line) or network(line))
        self.assertEqual(0, status, output)
        self.assertGreaterEqual(container.asked, 4)  # the daemon's own refusals come on top
        self.assertEqual(5, network.asked)

    def test_what_stays_is_told_without_our_frames(self) -> None:
        """Each thing that would not go is in the error, with the daemon's reason."""
        more = """
    context._REMOVAL = 0.1

    def tearDownModule():
        atexit.register(lambda: open("open", "x").close())  # before the session's end
"""

        def instead(line: str) -> bytes | None:
            closed = not (self.folder / "open").exists()
            return answer(500, "the disk is on fire") if closed and "DELETE" in line else None

        for runner in _RUNNERS:
            with self.subTest(runner=runner[0]):
                (self.folder / "open").unlink(missing_ok=True)
                status, output = self.run_suite(instead, more=more, runner=runner)
                self.assertEqual(1, status, output)
                self.assertIn(
                    "ReapError: test_suite.FirstTest: not everything could be removed", output
                )
                self.assertGreaterEqual(output.count("the disk is on fire"), 2, output)
                self.assertNotIn("engine_reaper", output)

    def test_the_next_class_does_not_wait(self) -> None:
        """A container goes when the test of the class after its own has run."""
        more = """
    class NextTest(FirstTest):
        def test_it(self):
            super().test_it()
            open("next", "x").close()
"""

        def instead(line: str) -> bytes | None:
            early = not (self.folder / "next").exists() and "DELETE" in line
            return answer(500, "device or resource busy") if early else None

        status, output = self.run_suite(instead, more=more, runner=_RUNNERS[-1])
        self.assertEqual(0, status, output)
