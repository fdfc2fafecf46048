"""Sessions without a daemon: who owns what, and what carries whose name."""

import argparse
import dataclasses
import os
import re
import subprocess
import sys
import unittest
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orchestrator.sessions.bare
from orchestrator.cli.inventory import seconds
from orchestrator.engine import Endpoint
from orchestrator.sessions.bare.watchdog import Messages
from orchestrator.sessions.identity import Identity, Liveness, liveness, process_start, this_process
from orchestrator.sessions.session import Session

_ROOM = Path(orchestrator.sessions.bare.__file__).parents[1]


class SessionsTest(unittest.TestCase):
    """Who owns what; only a proof counts as dead; the standard library alone removes."""

    def test_round_trip(self) -> None:
        """A label reads back as the identity it was made from, also with a later version's keys."""
        me = this_process()
        label = me.to_label().replace("{", '{"later":[1],', 1)
        self.assertEqual(me, Identity.from_label(label))

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
        code = "with open('/proc/self/comm','w') as f: f.write(') Z 1 ((')\ninput()"
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
        self.assertIsNotNone(process_start(child.pid))
        child.communicate(b"\n")

    def test_judgements(self) -> None:
        """Same boot, namespace, pid, start: alive; another start, boot: dead; others unknown."""
        me = this_process()
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        name = me.host.partition("/")[0]
        nameless = dataclasses.replace(me, host=f"{name}/")
        changes: dict[str, Any]
        for expected, here, changes in (
            (Liveness.ALIVE, me, {}),
            (Liveness.DEAD, me, {"start": me.start + 1}),
            (Liveness.DEAD, me, {"pid": child.pid}),
            (Liveness.DEAD, me, {"pid": 1 << 80}),
            (Liveness.DEAD, me, {"boot": "before"}),
            (Liveness.UNKNOWN, me, {"boot": "other", "host": "elsewhere/12"}),
            (Liveness.UNKNOWN, me, {"boot": "other", "host": f"{name}/"}),
            (Liveness.UNKNOWN, me, {"boot": ""}),
            (Liveness.UNKNOWN, nameless, {"boot": "other"}),
            (Liveness.UNKNOWN, dataclasses.replace(me, pidns=5), {"pidns": 6}),
        ):
            with self.subTest(changes):
                owner = dataclasses.replace(here, **changes)
                self.assertEqual(expected, liveness(owner, here=here))

    session = Session(endpoint=Endpoint(url="unix:///nowhere"))

    def test_labels(self) -> None:
        """Every label that is known is there, the owner's readable; what is not known is absent."""
        labels = self.session.labels(test_class="a.B", scope="class")
        prefix = "dev.orchestrator"
        created = datetime.fromisoformat(labels.pop(f"{prefix}.created"))
        self.assertLess(abs((datetime.now(UTC) - created).total_seconds()), 3600)
        self.assertEqual(this_process(), Identity.from_label(labels.pop(f"{prefix}.owner")))
        expected = {
            prefix: "1",
            f"{prefix}.session": str(uuid.UUID(self.session.id)),
            f"{prefix}.run": self.session.id,
            f"{prefix}.class": "a.B",
            f"{prefix}.scope": "class",
        }
        self.assertEqual(expected, labels)

    def test_names(self) -> None:
        """Names are unique and fit Docker, whatever the hint."""
        hints = ("db", "db", "", "Ünïcode shop", "a/b c", "x" * 300, "..", "trailing-")
        names = [self.session.name(hint) for hint in hints]
        self.assertEqual(len(hints), len(set(names)))
        for name in names:
            self.assertRegex(name, re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9]$"))
        self.assertTrue(names[0].startswith(f"orchestrator-{self.session.id[:8]}-"))
        self.assertTrue(names[0].endswith("-db"))

    def test_imports(self) -> None:
        """Every file of it runs on its own with -I -S and loads nothing heavy."""
        modules = sorted(path.stem for path in (_ROOM / "bare").glob("*.py"))
        code = (
            f"import sys; sys.path.insert(0, {str(_ROOM)!r}); "
            + "".join(f"import bare.{name}; " for name in modules if name != "__init__")
            + "print(*sorted(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
        )
        loaded = set(done.stdout.split())
        heavy = {"docker", "dataclasses", "typing", "http.client", "urllib.parse", "subprocess"}
        self.assertEqual(set(), (heavy | {"orchestrator"}) & loaded)
        self.assertIn("bare.watchdog", loaded)

    def test_lines(self) -> None:
        """Announcements count however the socket cuts them up."""
        text = "+volume one\n+network two\n=network two\n-one\n+container döt\n".encode()
        for cut in range(len(text)):
            lines = Messages()
            lines.feed(text[:cut])
            lines.feed(text[cut:])
            self.assertEqual({"döt"}, lines.intents)
            self.assertEqual({"two": "network", "döt": "container"}, lines.made)
            self.assertFalse(lines.bye)
        lines.feed(b"by")
        self.assertFalse(lines.bye)
        lines.feed(b"e\n")
        self.assertTrue(lines.bye)

    def test_ages(self) -> None:
        """Units and their combinations are seconds; anything else is named and refused."""
        ages = {"0": 0, "90": 90, "30m": 1800, "1.5h": 5400, "1d1h": 90000}
        self.assertEqual([*ages.values()], [seconds(text) for text in ages])
        for text in ("", "h", "2 h", "-1h", "2w", "1e3", "nan", "1.2.3h", "\u0661h"):
            with self.assertRaisesRegex(argparse.ArgumentTypeError, "not an age"):
                seconds(text)
