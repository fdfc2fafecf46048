"""The runner with real services: what becomes of containers and of their logs."""

import os
import signal
import subprocess
import textwrap
import unittest.mock
import uuid
from contextlib import AbstractContextManager, closing

from orchestrator.engine import connect, find_endpoint
from orchestrator.engine.api import Label
from orchestrator.sessions import snapshot
from orchestrator.settings import Settings
from tests.faults.process import processes_with
from tests.integration.runner.case import WORKER, Ran, RunnerTestCase
from tests.support.processes import python_beside_the_daemon

PREAMBLE = "from orchestrator import Redis, ServicesMixin\n"
HANGS = """
class A(ServicesMixin, unittest.TestCase):
    cache = Redis()
    def test_a(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        open("running", "w").close()
        while True: time.sleep(1000)
"""


_AHEAD = """
import sys
from unittest import mock
from orchestrator.cli import main
with mock.patch("orchestrator.runner.schedule.Idle.processors", 2.0):
    sys.exit(main(["test", *sys.argv[1:]]))
"""
_NOTED = """
class Noted(Redis):
    def prepare(self):
        with open("prepared", "a") as file:
            print(self.container_id, os.getpid(), file=file)
        if os.path.exists("hang") and len(prepared()) == 2:
            until(lambda: os.path.exists("go"))
def prepared():
    with open("prepared") as file:
        return [line.split() for line in file]
def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
class A(ServicesMixin, unittest.TestCase):
    cache = Noted()
    def test_a(self):
        until(lambda: len(prepared()) == 2)
        os.path.exists("do") and exec(open("do").read())
class B(ServicesMixin, unittest.TestCase):
    cache = Noted()
    def test_b(self):
        self.assertEqual(0, self.cache.client.dbsize())
        with open("used", "w") as file:
            print(self.cache.container_id, os.getpid(), file=file)
"""


class RunTestCase(RunnerTestCase):
    """Services under the parallel runner; after each test nothing of its run may be left."""

    def setUp(self) -> None:
        """Give the run a name of its own, to see what is left of it."""
        super().setUp()
        self.run_id = str(uuid.uuid4())
        environ = unittest.mock.patch.dict(os.environ, {"ORCHESTRATOR_RUN": self.run_id})
        environ.start()
        self.addCleanup(environ.stop)
        self.addCleanup(self.wait_for, lambda: not self._left(), "its things to be removed")

    def _write(self, source: str) -> None:
        self.write(test_services=PREAMBLE + textwrap.dedent(source))

    def _left(self) -> list[str]:
        with closing(connect(Settings.from_environment())) as engine:
            found = snapshot(engine, {Label.RUN: self.run_id})[0]
        return [f"{thing.kind} {thing.name}" for thing in found]


class AheadTest(RunTestCase):
    """A further worker starts the next class's services where processors are idle, as here."""

    def _ran(self, *arguments: str) -> Ran:
        """Run classes A and B, one at a time; A waits for B's services."""
        with self._started(*arguments) as running:
            return self.ended(running)

    def setUp(self) -> None:
        """Write the classes."""
        super().setUp()
        self._write(_NOTED)

    def _started(self, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
        return self.started("-j", "1", *arguments, command=["-c", _AHEAD])

    def _servers(self, file: str) -> list[str]:
        return (self.project / file).read_text().splitlines()

    def test_next_class_has_what_was_started_for_it(self) -> None:
        """Its own, in its own process, and once."""
        ran = self._ran()
        self.assertEqual("OK", ran.verdict, ran.text)
        self.assertEqual(self._servers("prepared")[1:], self._servers("used"))

    def test_killed_while_it_starts_services(self) -> None:
        """No test was lost, and the class starts its own: that is no error."""
        (self.project / "hang").touch()
        (self.project / "do").write_text("os.kill(int(prepared()[1][1]), signal.SIGKILL)")
        ran = self._ran()
        self.assertEqual("OK", ran.verdict, ran.text)
        self.assertEqual(self._servers("prepared")[2:], self._servers("used"))

    def test_first_failure_stops_the_run(self) -> None:
        """What was started for a class that does not run any more goes."""
        (self.project / "do").write_text("self.fail()")
        ran = self._ran("-f")
        self.assertEqual({"A.test_a": "failure", "B.test_b": "not-run"}, ran.outcomes, ran.text)
        self.assertEqual([], self._left(), "after the command has returned")

    def test_interrupted_while_it_starts_services(self) -> None:
        """They go, and the test that runs is not disturbed."""
        (self.project / "do").write_text("open('waits', 'w'); until(lambda: os.path.exists('go'))")
        (self.project / "hang").touch()
        with self._started() as running:
            self.wait_for_file("waits")
            running.send_signal(signal.SIGINT)
            self.wait_for_note(running, "may finish")
            (self.project / "go").touch()
            ran = self.ended(running)
        self.assertEqual((130, "ok"), (ran.status, ran.outcomes["A.test_a"]), ran.text)
        self.assertEqual("not-run", ran.outcomes["B.test_b"])
        self.assertEqual([], self._left(), "after the command has returned")


class ServicesTest(RunTestCase):
    """What is left, and told, of services when processes end in whatever way."""

    def test_dead_workers_and_logs(self) -> None:
        """A death is told with its services' logs, and leaves nothing; --logs keeps them all."""
        self._write("""
            class Passes(ServicesMixin, unittest.TestCase):
                one = Redis()
                two = Redis()
                def test_a(self): pass
            class Dies(ServicesMixin, unittest.TestCase):
                cache = Redis()
                def test_a(self):
                    open("password", "w").write(self.cache.password)
                    self.cache.client.bgsave()
                    os.kill(os.getpid(), signal.SIGKILL)
                def test_b(self): self.cache.client.ping()
            class NeverReady(ServicesMixin, unittest.TestCase):
                cache = Redis(command=["redis-server", "--no-such-option"])
                def test_a(self): pass
            """)
        ran = self.run_suite("-j", "2", "--logs", "logs")
        self.assertEqual([], self._left(), "after the command has returned")
        self.assertEqual(
            {
                "Passes.test_a": "ok",
                "Dies.test_a": "error",
                "Dies.test_b": "ok",
                "NeverReady.setUpClass": "error",
                "NeverReady.test_a": "not-run",
            },
            ran.outcomes,
            ran.text,
        )
        errors = [case.findtext("error") or "" for case in ran.report.iter("testcase")]
        [death] = [error for error in errors if "was killed by" in error]
        self.assertRegex(death, "(?s)Last log lines of cache:.*Ready to accept connections")
        [passed] = [suite for suite in ran.report if suite.get("name") == "test_services.Passes"]
        properties = {it.get("name"): it.get("value") for it in passed.iter("property")}
        self.assertRegex(properties["two.image"] or "", "redis.*@sha256:[0-9a-f]{64}")
        password = (self.project / "password").read_text()
        self.assertNotIn(password, ran.text)
        kept = {
            str(path.relative_to(self.project / "logs")): path.read_text()
            for path in (self.project / "logs").rglob("*.log")
        }
        words = {
            "test_services.Passes/one.log": "Ready to accept connections",
            "test_services.Passes/two.log": "Ready to accept connections",
            "test_services.Dies/cache.log": "Ready to accept connections",
            "test_services.NeverReady/cache.log": "no-such-option",
        }
        self.assertEqual(set(words), set(kept))
        for path, word in words.items():
            self.assertIn(word, kept[path], path)
            self.assertNotIn(password, kept[path], path)

    def test_three_interrupts(self) -> None:
        """Three Ctrl-C kill the workers, and their services are gone all the same."""
        self._write(HANGS)
        with self.started() as running:
            self.wait_for_file("running")
            for words in ("may finish", "are interrupted"):
                running.send_signal(signal.SIGINT)
                self.wait_for_note(running, words)
            running.send_signal(signal.SIGINT)
            ran = self.ended(running)
        self.assertEqual(130, ran.status, ran.text)
        self.assertEqual([], self._left(), "after the command has returned")

    def test_parent_killed(self) -> None:
        """Workers do not outlive a killed parent, however their tests hang; nor do containers."""
        self._write("""
            class Hangs(ServicesMixin):
                cache = Redis(memory="64m")
                def test_a(self):
                    open(f"running-{type(self).__name__}", "w").close()
                    self.hang()
                    while True: time.sleep(1000)
            class B(Hangs, unittest.TestCase):
                def hang(self): signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            class C(Hangs, unittest.TestCase):
                def hang(self): os.kill(os.getpid(), signal.SIGSTOP)
            class D(Hangs, unittest.TestCase):
                def hang(self):
                    import ctypes
                    ctypes.PyDLL(None).sleep(1000)  # and holds the interpreter meanwhile
            """)
        with self.impatient("-j", "3") as running:
            for name in "BCD":
                self.wait_for_file(f"running-{name}")
            self.assertNotEqual([], self._left())
            running.kill()
            running.wait()
            self.wait_for(lambda: not self.processes(), "the workers to end")

    @unittest.skipUnless(find_endpoint().socket, "the daemon is not on this machine's socket")
    def test_docker_stop(self) -> None:
        """In a container that is stopped, a hanging test's services are gone before SIGKILL."""
        self._write(HANGS)
        name = f"orchestrator-test-{uuid.uuid4().hex[:12]}"
        self.addCleanup(
            subprocess.run, ["docker", "rm", "--force", name], capture_output=True, check=False
        )
        argv = ("-m", "orchestrator", "test")
        command = python_beside_the_daemon(*argv, folder=self.project, run=self.run_id, name=name)
        with subprocess.Popen(command) as running:
            try:
                self.wait_for_file("running")
            finally:
                subprocess.run(["docker", "stop", name], check=True, capture_output=True)
            self.assertEqual(130, running.wait(), "137 when it was killed")
        self.assertEqual([], self._left(), "after the container was stopped")

    def test_everything_killed(self) -> None:
        """The parent and its workers killed at once: the watchdogs need no leave to clean up."""
        self._write(HANGS)
        with self.started() as running:
            self.wait_for_file("running")
            running.kill()
            for pid in {*self.processes()} & {*processes_with(WORKER)}:
                os.kill(pid, signal.SIGKILL)
