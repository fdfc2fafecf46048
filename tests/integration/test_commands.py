"""Reap and ps, on what is planted on a daemon in somebody's name."""

import dataclasses
import json
import os
import unittest
import uuid
from datetime import UTC, datetime, timedelta
from typing import ClassVar
from unittest import mock

from orchestrator.engine.api import Label
from orchestrator.sessions.identity import Identity, this_process
from tests.faults.daemon import Daemon
from tests.faults.private_daemon import PrivateDaemon
from tests.faults.proxy import Proxy, forbidding
from tests.support.processes import Ran, run_command


class CommandsTest(unittest.TestCase):
    """A run of its own for each test; nothing of it is left, pass or fail."""

    daemon: ClassVar[Daemon]

    @classmethod
    def setUpClass(cls) -> None:
        """Have a daemon that nobody else sweeps."""
        super().setUpClass()
        private = PrivateDaemon()
        cls.addClassCleanup(private.close)
        cls.daemon = Daemon(private.start().url)
        cls.addClassCleanup(cls.daemon.client.close)

    def setUp(self) -> None:
        """Know an owner that is alive and one that is dead."""
        super().setUp()
        self.run_id = str(uuid.uuid4())
        self.enterContext(mock.patch.dict(os.environ, DOCKER_HOST=self.daemon.url))
        self.addCleanup(self.daemon.remove_all, self.run_id)
        self.alive = this_process()
        self.dead = dataclasses.replace(self.alive, start=self.alive.start - 1)

    def marks(self, owner: Identity, **changed: str) -> dict[str, str]:
        """The labels of something."""
        return {
            Label.MARK: "1",
            Label.SESSION: str(uuid.uuid4()),
            Label.RUN: self.run_id,
            Label.OWNER: owner.to_label(),
            Label.CREATED: "2020-01-01T00:00:00+00:00",
            Label.CLASS: "shop.CheckoutTest",
            **changed,
        }

    def plant(self, owner: Identity, **changed: str) -> str:
        """Create a volume in somebody's name; its name."""
        name = f"orchestrator-planted-{uuid.uuid4().hex[:8]}"
        marks = self.marks(owner, **changed)
        self.daemon.client.create_volume(name, labels={Label.NAME: name, **marks})
        return name

    def reap(self, *argv: str) -> Ran:
        """Reap among this run's things."""
        return run_command("reap", "--run", self.run_id, *argv)

    def left(self) -> list[str]:
        """The names of what this run still has."""
        return [thing.split()[1] for thing in self.daemon.left(self.run_id)]

    # ps

    def test_table(self) -> None:
        """Each thing has a line with its session, owner, class and service, in aligned columns."""
        session = str(uuid.uuid4())
        mine = {Label.SESSION: session, Label.SERVICE: "db"}
        names = [self.plant(self.alive, **mine), self.plant(self.dead)]
        status, out, err = run_command("ps")
        self.assertEqual((0, ""), (status, err))
        head, *lines = out.splitlines()
        rows = {name: next(line for line in lines if name in line) for name in names}
        self.assertTrue(rows[names[0]].startswith(session[:8]))
        for title, text in (
            ("OWNER", f"alive: pid {self.alive.pid} on "),
            ("CLASS", "shop.CheckoutTest"),
            ("SERVICE", "db"),
            ("KIND", "volume"),
            ("ID", names[0]),
        ):
            self.assertEqual(text, rows[names[0]][head.index(title) :][: len(text)])
        self.assertIn("dead: pid", rows[names[1]])
        self.assertRegex(
            out, r"\n\d+ of owners that are dead.* `python -m orchestrator reap` removes"
        )

    # reap

    def test_dead_owner(self) -> None:
        """What a dead owner left is removed, and it is said what and whose; a dry run only says."""
        name = self.plant(self.dead)
        status, out, _err = self.reap("--dry-run")
        self.assertEqual(0, status)
        self.assertIn(f"would remove volume {name} ", out)
        self.assertEqual([name], self.left())
        status, out, err = self.reap()
        self.assertEqual((0, ""), (status, err))
        self.assertIn(f"removed volume {name} (shop.CheckoutTest, session ", out)
        self.assertIn(f"owner dead, pid {self.dead.pid} on ", out)
        self.assertEqual([], self.left())
        self.assertEqual((0, "nothing to remove\n", ""), self.reap())

    def test_snapshots(self) -> None:
        """They stay until --all, or `snapshots --clear`; one that was half made goes."""

        def kept(data: str) -> str:
            about = '{"check": "", "size": 5242880, "class": "shop.CheckoutTest", "service": "db"}'
            key = {Label.SNAPSHOT: "ab" * 32, Label.ABOUT: about}
            return self.plant(self.dead, **{Label.KEPT: f"volume:{data}", **key})

        def data() -> str:
            return self.plant(self.dead, **{Label.SNAPSHOT: "ab" * 32})

        first, half = data(), data()
        whole = [first, kept(first)]
        status, out, _err = self.reap()
        self.assertEqual(0, status)
        self.assertIn(half, out)
        self.assertCountEqual(whole, self.left())
        self.assertIn("abababababab  shop.CheckoutTest  db       5m", run_command("snapshots")[1])
        self.assertEqual((0, "removed 1 snapshot\n", ""), run_command("snapshots", "--clear"))
        self.assertEqual([], self.left())
        kept(data())
        self.reap("--all")
        self.assertEqual([], self.left())

    def test_living_owner(self) -> None:
        """What belongs to the living is kept without --all, with the reason and status 1."""
        session = str(uuid.uuid4())
        name = self.plant(self.alive, **{Label.SESSION: session})
        status, out, _err = self.reap()
        self.assertEqual(1, status)
        self.assertIn(f"kept volume {name} ", out)
        self.assertIn("its owner is alive", out)
        self.assertEqual(1, run_command("reap", "--session", session)[0])
        self.assertEqual([name], self.left())
        self.assertEqual(0, self.reap("--all")[0])
        self.assertEqual([], self.left())

    def test_session(self) -> None:
        """--session removes one session, named in full or by a beginning that no other has."""
        first, second = str(uuid.uuid4()), str(uuid.uuid4())
        self.plant(self.dead, **{Label.SESSION: first})
        self.plant(self.dead, **{Label.SESSION: second})
        third = self.plant(self.dead, **{Label.SESSION: f"{second[:8]}-another"})
        self.assertEqual(0, run_command("reap", "--session", first[:8])[0])
        status, _out, err = run_command("reap", "--session", second[:8])
        self.assertEqual(2, status)
        self.assertRegex(err, f"(?s)ambiguous.*{second}")
        self.assertEqual(0, run_command("reap", "--session", second)[0])
        self.assertEqual([third], self.left())
        gone = run_command("reap", "--session", first)  # no error: it may be gone already
        self.assertEqual((0, "nothing to remove\n", ""), gone)

    def test_older_than(self) -> None:
        """--older-than keeps what is younger, also of dead owners."""
        now = datetime.now(UTC)
        old = self.plant(self.dead, **{Label.CREATED: (now - timedelta(hours=3)).isoformat()})
        young = self.plant(self.dead, **{Label.CREATED: (now - timedelta(hours=1)).isoformat()})
        ageless = self.plant(self.dead, **{Label.CREATED: "yesterday"})
        self.assertIn(old, self.left())
        report = json.loads(self.reap("--json", "--older-than", "2h").out)
        [thing] = report["removed"]
        found = thing["name"], thing["kind"], thing["owner"], thing["class"], thing["run"]
        self.assertEqual((old, "volume", "dead", "shop.CheckoutTest", self.run_id), found)
        self.assertEqual({young, ageless}, {thing["name"] for thing in report["kept"]})
        status, _out, err = self.reap("--older-than", "soon")
        self.assertEqual(2, status)
        self.assertIn("'soon' is not an age", err)

    def test_what_will_not_go(self) -> None:
        """A volume somebody else uses is named with the daemon's reason, and the status is 1."""
        volume = f"orchestrator-planted-{uuid.uuid4().hex[:8]}"
        self.daemon.client.create_volume(
            volume, labels=self.marks(self.dead, **{Label.NAME: volume})
        )
        image = self.daemon.image()
        self.addCleanup(self.daemon.remove_image, image)
        config = self.daemon.client.create_host_config(binds=[f"{volume}:/data"])
        user = self.daemon.client.create_container(image, host_config=config)["Id"]
        self.addCleanup(self.daemon.client.remove_volume, volume)
        self.addCleanup(self.daemon.client.remove_container, user)
        status, out, err = self.reap()
        self.assertEqual(1, status)
        self.assertNotIn("removed", out)
        self.assertIn(f"could not remove volume {volume} ", err)
        self.assertIn("volume is in use", err)

    def test_what_may_not_be_listed(self) -> None:
        """What can be listed is removed; what cannot is named with the reason, status 1."""
        network = f"orchestrator-planted-{uuid.uuid4().hex[:8]}"
        self.daemon.client.create_network(
            network, labels=self.marks(self.dead, **{Label.NAME: network})
        )
        volume = self.plant(self.dead)
        proxy = self.enterContext(Proxy(self.daemon.url, instead=forbidding("GET /volumes")))
        with mock.patch.dict("os.environ", {"DOCKER_HOST": proxy.url}):
            status, out, err = self.reap()
            self.assertIn("not known which volumes there are: ", run_command("ps")[2])
            findings = json.loads(run_command("doctor", "--json")[1])
        self.assertEqual(1, status)
        self.assertIn(f"removed network {network} ", out)
        self.assertIn("not known which volumes there are: ", err)
        self.assertIn("Request forbidden by administrative rules", err)
        [found] = [found for found in findings if found["about"] == "leftover"]
        self.assertIn("not known of volumes", found["text"])
        self.assertIn("GET /volumes", found["mend"])
        self.assertEqual([volume], self.left())

    def test_what_is_nobodys(self) -> None:
        """What carries another's name, or is an image without a session, stays, with --all too."""
        theirs = self.plant(self.dead, **{Label.NAME: "orchestrator-planted-another"})
        marks = {Label.MARK: "1", Label.RUN: self.run_id}
        changes = [f"LABEL {name}={value}" for name, value in marks.items()]
        image = self.daemon.image(changes=changes)
        self.addCleanup(self.daemon.remove_image, image)
        self.assertEqual((0, "nothing to remove\n", ""), self.reap("--all"))
        self.assertEqual(2, len(self.left()))
        self.assertIn(theirs, self.left())
