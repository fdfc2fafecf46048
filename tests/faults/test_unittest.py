"""R1 to R3, R5, R6 as users meet them: a test class under unittest, pytest and our own runner."""

import random
import signal
import subprocess
import time
from typing import Final

from tests.faults.case import THOROUGH, FaultCase, repeated
from tests.support.processes import ProcessTestCase

_SOURCE: Final = """
import os, signal, sys, time, unittest
from orchestrator import Container, ServicesMixin

def reach(place):
    print("reached", place, flush=True)
    if os.environ.get("PLACE") == place:
        print("here", flush=True)
        eval(os.environ["ACTION"])

class ShopTest(ServicesMixin, unittest.TestCase):
    db = Container(image=os.environ["IMAGE"])
    if os.environ.get("FAULTS_THOROUGH"):
        cache = Container(image=os.environ["IMAGE"])

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        reach("setUpClass")
    @classmethod
    def tearDownClass(cls):
        reach("tearDownClass")
        super().tearDownClass()
    def setUp(self): reach("setUp")
    def test_one(self): reach("test")
    def tearDown(self): reach("tearDown")
def setUpModule(): reach("setUpModule")
def tearDownModule(): reach("tearDownModule")
"""
_PLACES: Final = ("setUpClass", "setUp", "test", "tearDown", "tearDownClass", "tearDownModule")
_WAIT: Final = "time.sleep(60)"
_UNITTEST: Final = ("-m", "unittest", "test_shop")


class UnittestTest(ProcessTestCase, FaultCase):  # type: ignore[misc]  # processes, not owners
    """A test class with a service, under ci/faults two."""

    def setUp(self) -> None:
        """Write the user's file."""
        super().setUp()
        self.write("test_shop.py", _SOURCE)
        image = {"IMAGE": self.image, "ORCHESTRATOR_UNLOCKED": "allow"}
        self.environ |= {"DOCKER_HOST": self.daemon.url, **image}

    def _run(self, *argv: str, place: str, action: str) -> subprocess.Popen[str]:
        self.environ |= {"PLACE": place, "ACTION": action}
        return self.start(*argv)

    def _wait_for(self, process: subprocess.Popen[str], words: str) -> None:
        assert process.stdout is not None
        self.assertTrue(any(line.strip().endswith(words) for line in process.stdout), words)

    def _ends(self, process: subprocess.Popen[str], *statuses: int, since: float = 0) -> None:
        """It ends with one of these statuses (any but 0 by default), and nothing is left."""
        status, output = self.finish(process)
        self.assertNotEqual(0, status, output)
        self.assertIn(status, statuses or (status,), output)
        self.seconds.append(self.daemon.await_gone(self.run_id, since=since))

    def _signal(self, process: subprocess.Popen[str], number: signal.Signals) -> float:
        now = time.monotonic()
        process.send_signal(number)
        return now

    @repeated(3)
    def test_r01_r02_r06_ends_by_itself(self) -> None:
        """R1, R2, R6 sys.exit, an exception or os._exit in any set-up, test or tear-down."""
        for action, usual, status in (
            ("sys.exit(3)", "setUpClass", 3),
            ("1 / 0", "tearDownClass", 1),
            ("os._exit(3)", "tearDown", 3),
        ):
            for place in _PLACES if THOROUGH else (usual,):
                with self.subTest(action, place=place):
                    self._ends(self._run(*_UNITTEST, place=place, action=action), status, 1)

    @repeated(3)
    def test_r03_r05_signals(self) -> None:
        """R3, R5 Ctrl-C or SIGTERM in any set-up, test or tear-down leaves nothing."""
        for number, usual in ((signal.SIGINT, "tearDownClass"), (signal.SIGTERM, "test")):
            for place in _PLACES if THOROUGH else (usual,):
                with self.subTest(signal=number.name, place=place):
                    process = self._run(*_UNITTEST, place=place, action=_WAIT)
                    self._wait_for(process, "here")
                    since = self._signal(process, number)
                    self._ends(process, 1, 130, -number, since=since)

    @repeated(3)
    def test_r03_interrupt_with_catch(self) -> None:
        """R3 unittest -c, whose handler of SIGINT must stay its own, leaves nothing."""
        process = self._run("-m", "unittest", "-c", "test_shop", place="test", action=_WAIT)
        self._wait_for(process, "here")
        self._signal(process, signal.SIGINT)
        time.sleep(0.3)  # unittest lets the test end first; the second one does not
        self._ends(process, since=self._signal(process, signal.SIGINT))

    @repeated(20)
    def test_r03_interrupt_while_services_start(self) -> None:
        """R3, R5 Ctrl-C or SIGTERM at a random moment of the services' start leaves nothing."""
        number = random.choice((signal.SIGINT, signal.SIGTERM))  # noqa: S311
        process = self._run(*_UNITTEST, place="setUpClass", action=_WAIT)
        self._wait_for(process, "reached setUpModule")
        time.sleep(random.uniform(0, 0.8))  # noqa: S311  # the moment is the point
        self._ends(process, since=self._signal(process, number))

    @repeated(3)
    def test_r03_interrupt_under_pytest(self) -> None:
        """R3 Ctrl-C to pytest leaves nothing."""
        argv = ("-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "test_shop.py")
        process = self._run(*argv, place="test", action=_WAIT)
        self._wait_for(process, "here")
        since = self._signal(process, signal.SIGINT)
        self._ends(process, 2, -signal.SIGINT, since=since)  # either between pytest's own hooks
