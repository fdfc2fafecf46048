"""scope="run": one server for all processes of a run, however any of them is killed."""

import os
import re
import signal
import subprocess

from orchestrator.engine.api import Label
from orchestrator.sessions import Thing, snapshot
from orchestrator.sessions.identity import Identity
from tests.support.processes import ProcessTestCase

_SUITE = """
    import os, pathlib, time, unittest
    from orchestrator import Redis, ServicesMixin

    def await_file(name):
        while not os.path.exists(name):
            time.sleep(0.02)

    class Shared(ServicesMixin):
        cache = Redis(scope="run")

        def use(self):
            self.assertEqual([], self.cache.client.keys(self.cache.key("*")))
            self.cache.client.set(self.cache.key("clash"), type(self).__name__)
            pathlib.Path(f"{type(self).__name__}.used").write_text(
                f"{self.cache.container_id} {os.getpid()}"
            )

        def test_it(self):
            self.use()
            await_file("go")
            self.assertEqual(
                type(self).__name__, self.cache.client.get(self.cache.key("clash")).decode()
            )

    class OneTest(Shared, unittest.TestCase): ...
    class TwoTest(Shared, unittest.TestCase): ...
"""
_RUNNER = ("-m", "orchestrator", "test", "-j", "2", "test_shared")


class SharedTestCase(ProcessTestCase):
    """A suite of two classes, each of which waits for a file called ``go``."""

    def setUp(self) -> None:
        """Write it; where keepers are found is its own."""
        super().setUp()
        self.environ["TMPDIR"] = str(self.folder)
        self.write("test_shared.py", _SUITE)

    def used(self, name: str) -> tuple[str, int]:
        """The container, and the process, that a class has, as soon as its test uses it."""
        path = self.folder / f"{name}.used"
        self.await_that(lambda: path.exists() and path.read_text() != "", lambda: f"no {path}")
        container, pid = path.read_text().split()
        return container, int(pid)

    def servers(self) -> list[Thing]:
        """The containers that the run has."""
        found = snapshot(self.engine, {Label.RUN: self.run_id})[0]
        return [it for it in found if it.kind == "container"]

    def keeper(self) -> int:
        """The process that has the one server of the run."""
        [server] = self.servers()
        self.assertEqual("run", server.labels[Label.SCOPE])
        return Identity.from_label(server.labels[Label.OWNER]).pid

    def assert_passed(self, run: subprocess.Popen[str]) -> None:
        """Let it go on to its end, after which nothing is left at once."""
        (self.folder / "go").touch()
        status, output = self.finish(run)
        self.assertEqual(0, status, output)
        self.assertEqual([], self.left())
        self.assertEqual([], list(self.folder.glob("orchestrator-*/*.run")))


class RunTest(SharedTestCase):
    """What a run is: the runner's command, xdist's, or one process."""

    def test_workers_of_xdist_share_a_server(self) -> None:
        """It goes with the process that began them."""
        del self.environ["ORCHESTRATOR_RUN"]
        run = self.start(
            "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "test_shared.py"
        )
        (one, pid), (two, other) = self.used("OneTest"), self.used("TwoTest")
        self.assertEqual((one, False), (two, pid == other))
        (self.folder / "go").touch()
        status, output = self.finish(run)
        self.assertEqual(0, status, output)
        self.await_that(lambda: self.engine.container(one) is None, lambda: f"{one} is left")

    def test_other_declaration_has_another_server(self) -> None:
        """In one process too; equal ones have one, also under a base class of their own."""
        suite = (
            _SUITE
            + """
    class ThreeTest(ServicesMixin, unittest.TestCase):
        cache = Redis(scope="run", maxmemory="64mb")
        use, test_it = Shared.use, Shared.test_it

    class FourTest(ThreeTest):
        cache = Redis(scope="run")
"""
        )
        self.write("test_shared.py", suite)
        (self.folder / "go").touch()
        self.assert_passed(self.start("-m", "unittest", "test_shared"))
        names = ("One", "Two", "Three", "Four")
        one, two, three, four = (self.used(f"{name}Test")[0] for name in names)
        self.assertEqual((one, one, False), (two, four, one == three))

    def test_failed_start_is_told_to_all_and_tried_once(self) -> None:
        """Both workers say what the first start said."""
        broken = 'Redis(scope="run", command=["sh", "-c", "echo begun; exit 3"])'
        self.write("test_shared.py", _SUITE.replace('Redis(scope="run")', broken))
        self.environ["ORCHESTRATOR_LOGS"] = str(self.folder / "logs")
        status, output = self.run_python(*_RUNNER)
        self.assertEqual(1, status, output)
        said = re.findall(r"ServiceExitedError: cache: .* exit code 3", output)
        self.assertEqual(2, len(said), output)
        self.assertIn("It was to serve the whole run, first test_shared.", output)
        self.assertEqual("begun\n", (self.folder / "logs/process/cache.log").read_text())
        self.assertEqual([], self.left())


class DeathTest(SharedTestCase):
    """Whoever is killed, nothing is left."""

    def setUp(self) -> None:
        """Have a run of which two workers use one server, with the same names in it."""
        super().setUp()
        more = "    class ZThreeTest(Shared, unittest.TestCase): ...\n"
        self.write("test_shared.py", _SUITE + more)
        self.running = self.start(*_RUNNER)
        (self.container, self.worker), (other, pid) = self.used("OneTest"), self.used("TwoTest")
        self.assertEqual((other, False), (self.container, pid == self.worker))

    def test_killed_worker(self) -> None:
        """The other one's test passes, on the same server."""
        os.kill(self.worker, signal.SIGKILL)
        (self.folder / "go").touch()
        status, output = self.finish(self.running)
        self.assertEqual(1, status, output)
        self.assertEqual(1, output.count("\nERROR: "), output)
        self.assertEqual(self.container, self.used("ZThreeTest")[0])
        self.assertEqual([], self.left())

    def test_killed_keeper(self) -> None:
        """Tests whose server went with it say so; the next class has a new one."""
        os.kill(self.keeper(), signal.SIGKILL)
        self.await_that(lambda: not self.servers(), lambda: f"left: {self.left()}")
        (self.folder / "go").touch()
        status, output = self.finish(self.running)
        self.assertEqual(1, status, output)
        self.assertIn("cache: ", output)
        self.assertIn("its container was removed", output)
        self.assertNotEqual(self.container, self.used("ZThreeTest")[0])
        self.assertEqual(2, output.count("\nERROR: "), output)
        self.assertEqual([], self.left())

    def test_killed_runner(self) -> None:
        """The keeper sees it, and its workers do."""
        self.running.kill()
        self.await_nothing_left()
