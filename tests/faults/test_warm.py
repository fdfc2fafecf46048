"""ORCHESTRATOR_WARM: the next run finds unused servers of the same declarations, or starts its own.

Every process here is a real one, and is killed as it comes.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.faults.warm_case import TEST, WarmTestCase

_WAITS = """
        def test_waits(self):
            while not os.path.exists("go"): time.sleep(0.02)
            self.cache.client.ping()
"""


class WarmTest(WarmTestCase):
    """What a run finds, and leaves."""

    def test_second_run_takes_what_was_made_for_it_unused(self) -> None:
        """It is served by the keeper's container, which the first run never had."""
        first = self.serve()
        keeper = self.keeper()
        [kept] = self.kept(keeper["session"])
        self.assertNotEqual(first, kept)
        self.assertEqual(kept, self.serve())
        self.await_gone(keeper["session"])
        self.assertNotEqual(keeper["pid"], self.keeper()["pid"])

    def test_under_the_runner(self) -> None:
        """What is of one run only, such as its hash seed, does not matter."""
        runner = ("-m", "orchestrator", "test", "-j", "1", "test_warm")
        self.serve(*runner)
        kept = self.kept(self.keeper()["session"])
        self.assertIn(self.serve(*runner), kept)

    def test_stop_leaves_nothing(self) -> None:
        """``warm --stop`` ends the keeper and removes what it has."""
        self.serve()
        session = self.keeper()["session"]
        _, rows = self.run_python("-m", "orchestrator", "ps")
        self.assertIn("running, warm", rows)
        self.assertEqual(0, self.run_python("-m", "orchestrator", "warm", "--stop")[0])
        self.assertEqual([], self.keepers())
        self.await_gone(session)

    def test_ends_by_itself(self) -> None:
        """When nobody came for that long, keeper and servers go."""
        self.environ["ORCHESTRATOR_WARM"] = "1s"
        self.serve()
        self.await_that(lambda: bool(self.keepers()), self.told)
        self.await_that(lambda: not self.keepers(), self.told)
        for session in self.sessions:
            self.await_gone(session)

    def test_only_the_user_can_look_into_the_folder(self) -> None:
        """Folder and socket are the user's alone."""
        self.serve()
        socket = Path(self.keeper()["socket"])
        modes = [oct(path.stat().st_mode & 0o777) for path in (socket.parent, socket)]
        self.assertEqual([oct(0o700), oct(0o600)], modes)

    def test_folder_of_others_is_not_used(self) -> None:
        """One that others may enter is as good as none: the class starts normally."""
        folder = self.folder / f"orchestrator-{os.geteuid()}"
        folder.mkdir()
        folder.chmod(0o755)
        self.serve()
        self.assertEqual([], self.keepers())


class ChangeTest(WarmTestCase):
    """What has changed since gets new servers, never those that were kept."""

    def setUp(self) -> None:
        """Have a keeper that is ready."""
        super().setUp()
        lock = Path(os.environ["ORCHESTRATOR_IMAGES_LOCK"]).read_text()
        (self.folder / "images.lock").write_text(lock)
        self.environ["ORCHESTRATOR_IMAGES_LOCK"] = str(self.folder / "images.lock")
        (self.folder / "data.txt").write_text("64mb")
        self.write("helper.py", "SIZE = open('data.txt').read()\n")
        test = TEST.replace("import sys", "import os, sys, helper")
        self.write("test_warm.py", test.replace("Redis()", "Redis(maxmemory=helper.SIZE)"))
        self.serve()
        self.session = self.keeper()["session"]
        self.containers = self.kept(self.session)

    def assert_new(self) -> None:
        """The run has servers of its own, and the keeper's go."""
        self.assertNotIn(self.serve(), self.containers)
        self.await_gone(self.session)

    def test_file_that_the_module_reads(self) -> None:
        """Also one that is no code."""
        (self.folder / "data.txt").write_text("65mb")
        self.assert_new()

    def test_module_that_the_test_imports(self) -> None:
        """Whatever in it is another."""
        with (self.folder / "helper.py").open("a") as file:
            file.write("# changed\n")
        self.assert_new()

    def test_images_lock(self) -> None:
        """Whatever in it is another."""
        with (self.folder / "images.lock").open("a") as file:
            file.write("# changed\n")
        self.assert_new()

    def test_variable(self) -> None:
        """One of ours, that the servers might depend on."""
        self.environ["ORCHESTRATOR_SUBNETS"] = "10.216.0.0/15"
        self.assert_new()


class DeathTest(WarmTestCase):
    """Whoever is killed, nothing is left, and the next run passes."""

    def setUp(self) -> None:
        """Have a keeper that is ready."""
        super().setUp()
        self.serve()
        self.pid, self.session = (self.keeper()[name] for name in ("pid", "session"))

    def test_killed_keeper(self) -> None:
        """Its watchdog removes what it kept; the run starts its own."""
        os.kill(self.pid, signal.SIGKILL)
        self.await_gone(self.session)
        self.serve()

    def test_frozen_keeper(self) -> None:
        """It is not waited for."""
        [kept] = self.kept(self.session)
        os.kill(self.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.pid, signal.SIGKILL)
        self.assertNotEqual(kept, self.serve())


class UseTest(WarmTestCase):
    """Two runs, and deaths while one uses what was kept."""

    def setUp(self) -> None:
        """Have a keeper that is ready, for a test that waits."""
        super().setUp()
        (self.folder / "go").touch()
        self.write("test_warm.py", TEST.replace("import sys", "import os, sys, time") + _WAITS)
        self.serve()
        self.pid, self.session = (self.keeper()[name] for name in ("pid", "session"))
        (self.folder / "go").unlink()

    def test_killed_run(self) -> None:
        """What it had taken over goes with it."""
        run = self.start("-m", "unittest", "test_warm")
        self.keeper("taken")
        run.kill()
        self.await_gone(self.session)

    def test_keeper_killed_while_its_servers_are_used(self) -> None:
        """The run does not notice, and they go with it."""
        [kept] = self.kept(self.session)
        run = self.start("-m", "unittest", "test_warm")
        self.keeper("taken")
        os.kill(self.pid, signal.SIGKILL)
        (self.folder / "go").touch()
        self.assertEqual(kept, self.served(*self.finish(run)))
        self.await_gone(self.session)

    def test_two_runs_at_once(self) -> None:
        """One has what was kept, the other starts its own; both pass."""
        runs = [self.start("-m", "unittest", "test_warm") for _ in range(2)]
        self.await_that(lambda: "taken" in [it["state"] for it in self.keepers()], self.told)
        (self.folder / "go").touch()
        served = {self.served(*self.finish(run)) for run in runs}
        self.assertEqual(2, len(served))
