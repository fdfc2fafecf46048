"""ORCHESTRATOR_WARM: the next run finds unused servers of what it declares, or has its own."""

import os
import signal
import unittest.mock
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.engine.api import Label
from orchestrator.environment import warm
from orchestrator.sessions import snapshot
from tests.faults.process import processes_with
from tests.support.processes import ProcessTestCase

TEST = """
    import sys, unittest
    from orchestrator import Redis, ServicesMixin

    class WarmTest(ServicesMixin, unittest.TestCase):
        cache = Redis()

        def test_nothing_is_there(self):
            print("served by", self.cache.container_id, file=sys.stderr)
            self.assertEqual(0, self.cache.client.dbsize())
            self.cache.client.set("trace", "of the class before")
"""


class WarmTestCase(ProcessTestCase):
    """A test whose runs keep servers warm, in a folder of its own; none is left when it ends."""

    def setUp(self) -> None:
        """Have the folder, and end every keeper after the test."""
        super().setUp()
        self.environ |= {"ORCHESTRATOR_WARM": "5m", "TMPDIR": str(self.folder)}
        self.sessions: set[str] = set()
        self.addCleanup(self._end_keepers)
        self.write("test_warm.py", TEST)

    def serve(self, *argv: str) -> str:
        """Run the tests, which pass: the id of the container that served them."""
        return self.served(*self.run_python(*(argv or ("-m", "unittest", "test_warm"))))

    def served(self, status: int, output: str) -> str:
        """The id of the container that served a run, which has passed."""
        self.assertEqual(0, status, output)
        found = [line.split()[-1] for line in output.splitlines() if "served by" in line]
        self.assertEqual(1, len(found), output)
        return found[0]

    def keepers(self) -> Sequence[Mapping[str, Any]]:
        """What each keeper says of itself."""
        with unittest.mock.patch.dict(os.environ, {"TMPDIR": str(self.folder)}):
            found = warm.keepers()
        self.sessions |= {it["session"] for it in found if it["session"]}
        return found

    def keeper(self, state: str = "ready") -> Mapping[str, Any]:
        """The one keeper, as soon as it is in this state."""
        self.await_that(lambda: [it["state"] for it in self.keepers()] == [state], self.told)
        return self.keepers()[0]

    def told(self) -> str:
        """What there is to say when a keeper is not as expected."""
        logs = [path.read_text() for path in self.folder.glob("orchestrator-*/log")]
        return f"keepers: {self.keepers()}; their log: {logs}"

    def kept(self, session: str) -> Sequence[str]:
        """The ids of the containers of a keeper's session."""
        things = snapshot(self.engine, {Label.SESSION: session})[0]
        return [it.id for it in things if it.kind == "container"]

    def await_gone(self, session: str) -> None:
        """Fail unless the daemon soon has nothing of a session."""

        def left() -> Sequence[str]:
            return [it.name for it in snapshot(self.engine, {Label.SESSION: session})[0]]

        self.await_that(lambda: not left(), lambda: f"left behind: {left()}")

    def _end_keepers(self) -> None:
        self.await_that(self._ended, self.told)
        for session in self.sessions:
            self.await_gone(session)

    def _ended(self) -> bool:
        """Stop every keeper, those too that a run started a moment ago; whether none is left."""
        for keeper in self.keepers():
            with suppress(ProcessLookupError):
                os.kill(keeper["pid"], signal.SIGCONT)
            warm.stop(keeper["socket"])
        running = processes_with(f"TMPDIR={self.folder}", where="environ")  # their watchdogs too
        return not running and not self.keepers()


_WAITS = """
        def test_waits(self):
            while not os.path.exists("go"): time.sleep(0.02)
            self.cache.client.ping()
"""


class WarmTest(WarmTestCase):
    """What a run finds, and leaves; whoever is killed, nothing is left, and the next run passes."""

    def test_second_run_takes_what_was_made_for_it_unused(self) -> None:
        """Under any runner; folder and socket are the user's alone; ``warm --stop`` ends it all."""
        first = self.serve()
        keeper = self.keeper()
        socket = Path(keeper["socket"])
        modes = [oct(path.stat().st_mode & 0o777) for path in (socket.parent, socket)]
        self.assertEqual([oct(0o700), oct(0o600)], modes)
        [kept] = self.kept(keeper["session"])
        self.assertNotEqual(first, kept)
        self.assertEqual(kept, self.serve("-m", "orchestrator", "test", "-j", "1", "test_warm"))
        self.await_gone(keeper["session"])
        following = self.keeper()
        self.assertNotEqual(keeper["pid"], following["pid"])
        _, rows = self.run_python("-m", "orchestrator", "ps")
        self.assertIn("running, warm", rows)
        self.assertEqual(0, self.run_python("-m", "orchestrator", "warm", "--stop")[0])
        self.assertEqual([], self.keepers())
        self.await_gone(following["session"])

    def test_ends_by_itself(self) -> None:
        """When nobody came for that long, keeper and servers go."""
        self.environ["ORCHESTRATOR_WARM"] = "1s"
        self.serve()
        self.await_that(lambda: bool(self.keepers()), self.told)
        self.await_that(lambda: not self.keepers(), self.told)
        for session in self.sessions:
            self.await_gone(session)

    def test_folder_of_others_is_not_used(self) -> None:
        """One that others may enter is as good as none: the class starts normally."""
        folder = self.folder / f"orchestrator-{os.geteuid()}"
        folder.mkdir()
        folder.chmod(0o755)
        self.serve()
        self.assertEqual([], self.keepers())

    def test_killed_or_frozen(self) -> None:
        """A server that ended is not taken; a dead keeper's go; a frozen one is not waited for."""
        self.serve()
        ended = self.keeper()["session"]
        [kept] = self.kept(ended)
        self.engine.kill_container(kept)
        self.assertNotEqual(kept, self.serve())
        self.await_gone(ended)
        killed = self.keeper()
        os.kill(killed["pid"], signal.SIGKILL)
        self.await_gone(killed["session"])
        self.serve()
        frozen = self.keeper()
        [kept] = self.kept(frozen["session"])
        os.kill(frozen["pid"], signal.SIGSTOP)
        self.addCleanup(os.kill, frozen["pid"], signal.SIGKILL)
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

    def test_keeper_killed_while_its_servers_are_used_then_a_run(self) -> None:
        """The run does not notice; what either had goes with it."""
        [kept] = self.kept(self.session)
        run = self.start("-m", "unittest", "test_warm")
        self.keeper("taken")
        os.kill(self.pid, signal.SIGKILL)
        (self.folder / "go").touch()
        self.assertEqual(kept, self.served(*self.finish(run)))
        self.await_gone(self.session)
        following = self.keeper()
        (self.folder / "go").unlink()
        run = self.start("-m", "unittest", "test_warm")
        self.keeper("taken")
        run.kill()
        self.await_gone(following["session"])

    def test_two_runs_at_once(self) -> None:
        """One has what was kept, the other starts its own; both pass."""
        runs = [self.start("-m", "unittest", "test_warm") for _ in range(2)]
        self.await_that(lambda: "taken" in [it["state"] for it in self.keepers()], self.told)
        (self.folder / "go").touch()
        served = {self.served(*self.finish(run)) for run in runs}
        self.assertEqual(2, len(served))


_THREE = """
    import os, sys, unittest
    from orchestrator import Kafka, Postgres, Redis, ServicesMixin
    from sqlalchemy import text

    def migrate(engine):
        with open("migrated", "a") as file:
            print(os.getpid(), file=file)
        with engine.begin() as connection:
            connection.execute(text("create table migrated(id int)"))

    class ThreeTest(ServicesMixin, unittest.TestCase):
        db = Postgres(migrate=migrate, roles=["app"])
        cache = Redis(users={"app": "~* +@all"})
        events = Kafka(security="sasl_plaintext")

        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            print("served by", cls.cache.container_id, file=sys.stderr)
            with cls.db.connect() as connection:
                tables = connection.execute(
                    "select relname from pg_class where relkind = 'r' and oid >= 16384"
                ).fetchall()
                assert tables == [("migrated",)], tables
                logins = connection.execute(
                    "select rolname from pg_roles where oid >= 16384 order by 1"
                ).fetchall()
                assert logins == [("app",)], logins
                connection.execute("create table trace()")
                connection.execute("create role trace")
            assert cls.cache.client.dbsize() == 0, cls.cache.client.keys()
            assert "trace" not in cls.cache.client.acl_users()
            cls.cache.client.set("trace", 1)
            cls.cache.client.acl_setuser("trace")
            topics = [it for it in cls.events.admin.list_topics() if not it.startswith("__")]
            assert topics == [], topics
            cls.events.topic("trace")

        def test_all_of_it_works(self):
            with self.db.as_role("app").connect() as connection:
                connection.execute("select 1")
            self.cache.as_user("app").client.ping()
            topic = self.events.topic("orders")
            with self.events.producer() as producer:
                producer.send(topic, b"paid")
            self.assertEqual(b"paid", self.events.consume(topic)[0].value)

    if __name__ == "__main__":
        unittest.main()
"""


class ChangeTest(WarmTestCase):
    """What has changed gets new servers; of what has not, nothing is of the class before."""

    def test_whatever_has_changed(self) -> None:
        """A file that the module reads, a module it imports, images.lock, a variable of ours."""
        lock = self.folder / "images.lock"
        lock.write_text(Path(os.environ["ORCHESTRATOR_IMAGES_LOCK"]).read_text())
        self.environ["ORCHESTRATOR_IMAGES_LOCK"] = str(lock)
        data = self.folder / "data.txt"
        data.write_text("64mb")
        self.write("helper.py", "SIZE = open('data.txt').read()\n")
        test = TEST.replace("import sys", "import os, sys, helper")
        self.write("test_warm.py", test.replace("Redis()", "Redis(maxmemory=helper.SIZE)"))

        def append(path: Path) -> None:
            with path.open("a") as file:
                file.write("# changed\n")

        self.serve()
        changes: dict[str, Callable[[], object]] = {
            "a file, also one that is no code": lambda: data.write_text("65mb"),
            "a module": lambda: append(self.folder / "helper.py"),
            "images.lock": lambda: append(lock),
            "a variable": lambda: self.environ.update(ORCHESTRATOR_SUBNETS="10.216.0.0/15"),
        }
        for what, change in changes.items():
            session = self.keeper()["session"]
            kept = self.kept(session)
            change()
            with self.subTest(what):
                self.assertNotIn(self.serve(), kept)
                self.await_gone(session)
        self.keeper()
        self.write("helper.py", "import os\nos.system('true')\nSIZE = '64mb'\n")
        self.serve()
        by_whom = "it was made by another program"  # and nobody saw what that has read
        self.await_that(lambda: by_whom in self.told(), self.told)

    def test_nothing_of_the_class_before_and_migrated_once_for_each(self) -> None:
        """No table, key, topic, login or setting of the run before; the taker does not migrate."""
        self.write("test_warm.py", _THREE)
        self.serve("test_warm.py")
        keeper = self.keeper()
        kept = self.kept(keeper["session"])
        self.assertIn(self.serve("test_warm.py"), kept)
        migrated = (self.folder / "migrated").read_text().split()
        self.assertEqual(2, len(migrated), "the second run took what the keeper had migrated")
        self.assertEqual(str(keeper["pid"]), migrated[1])
