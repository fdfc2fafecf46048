"""The part that must work where nothing can be imported."""

from __future__ import annotations

import subprocess
import sys
import unittest
from pathlib import Path

import orchestrator.sessions.bare
from orchestrator.sessions.bare.removal import own_name
from orchestrator.sessions.bare.watchdog import Messages

_ROOM = Path(orchestrator.sessions.bare.__file__).parents[1]


class BareTest(unittest.TestCase):
    """Standard library only, and little of it."""

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

    def test_what_is_ours(self) -> None:
        """What carries its own name is ours, by that name; what inherited its labels is not."""
        session = {"dev.orchestrator.session": "0a1b2c3d-4e5f"}
        named = {**session, "dev.orchestrator.name": "db"}
        tagged = {**session, "dev.orchestrator.name": "built:1"}
        for expected, kind, names, carried in (
            ("db", "container", ["db"], named),
            ("db", "container", ["other/alias", "db"], named),
            ("db", "container", [], named),  # its name is free already, and the rest is going
            (None, "container", ["theirs"], named),
            (None, "image", ["db:latest"], named),
            (None, "image", [], named),
            ("built:1", "image", ["theirs:2", "built:1"], tagged),
            (None, "image", ["theirs:2"], tagged),
            (None, "container", ["theirs"], tagged),
            (None, "volume", ["theirs"], named),
            (None, "volume", ["any"], session),
        ):
            with self.subTest(kind=kind, names=names):
                self.assertEqual(expected, own_name(kind, names, carried))
