"""Owner labels and the judgement on them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import unittest

from orchestrator.sessions.identity import Identity, Liveness, liveness, process_start, this_process


class IdentityTest(unittest.TestCase):
    """What goes into the owner label."""

    def test_round_trip(self) -> None:
        """A label reads back as the identity it was made from, also with a later version's keys."""
        me = this_process()
        label = me.to_label().replace("{", '{"later":[1],', 1)
        self.assertEqual(me, Identity.from_label(label))

    def test_malformed(self) -> None:
        """Whatever is not an owner label is refused in words."""
        good = this_process().to_label()
        for label, message in (
            ("", "not JSON"),
            ("{", "not JSON"),
            ("[" * 100_000, "not JSON"),
            ("null", "not a JSON object"),
            ("{}", "'boot'"),
            (good.replace('"pid":', '"pid":-'), "'pid'"),
            (good.replace(f'"pid":{os.getpid()}', '"pid":true'), "'pid'"),
            (good.replace(f'"pid":{os.getpid()}', f'"pid":"{os.getpid()}"'), "'pid'"),
        ):
            with self.subTest(label=label[:40]), self.assertRaisesRegex(ValueError, message):
                Identity.from_label(label)

    def test_zombie_has_ended(self) -> None:
        """A process that has ended and was not waited for has no start time any more."""
        child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.read()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        self.assertIsNone(process_start(child.pid))
        child.stdout.close()
        child.wait()

    def test_name_with_brackets(self) -> None:
        """A process whose name looks like a part of /proc's line is read correctly."""
        code = "open('/proc/self/comm','w').write(') Z 1 (('); input()"
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
        self.assertIsNotNone(process_start(child.pid))
        child.communicate(b"\n")


class LivenessTest(unittest.TestCase):
    """Only a proof counts as dead."""

    def setUp(self) -> None:
        """Know the judge."""
        super().setUp()
        self.me = this_process()

    def _judged(self, **changes: object) -> Liveness:
        return liveness(dataclasses.replace(self.me, **changes), here=self.me)  # type: ignore[arg-type]

    def test_this_process_is_alive(self) -> None:
        """The judge itself is alive."""
        self.assertEqual(Liveness.ALIVE, self._judged())

    def test_another_start_is_another_process(self) -> None:
        """The same pid with another start time is dead."""
        self.assertEqual(Liveness.DEAD, self._judged(start=self.me.start + 1))

    def test_ended_process(self) -> None:
        """A pid that no process has is dead."""
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        self.assertEqual(Liveness.DEAD, self._judged(pid=child.pid))
        self.assertEqual(Liveness.DEAD, self._judged(pid=1 << 80))

    def test_boot(self) -> None:
        """Another boot of the same machine is dead; of another or a nameless one, unknown."""
        self.assertEqual(Liveness.DEAD, self._judged(boot="before"))
        self.assertEqual(Liveness.UNKNOWN, self._judged(boot="other", host="elsewhere/12"))
        self.assertEqual(Liveness.UNKNOWN, self._judged(boot=""))
        name = self.me.host.partition("/")[0]
        self.assertEqual(Liveness.UNKNOWN, self._judged(boot="other", host=f"{name}/"))
        nameless = dataclasses.replace(self.me, host=f"{name}/")
        self.assertEqual(
            Liveness.UNKNOWN, liveness(dataclasses.replace(nameless, boot="other"), here=nameless)
        )

    def test_another_namespace_from_inside_one(self) -> None:
        """A judge inside a container cannot judge owners in another one."""
        here = dataclasses.replace(self.me, pidns=5)
        owner = dataclasses.replace(self.me, pidns=6)
        self.assertEqual(Liveness.UNKNOWN, liveness(owner, here=here))
