"""What a person sees of a pull."""

import contextlib
import io
import os
import re
import unittest
from unittest import mock

from orchestrator import progress
from orchestrator.engine.api import PullProgress
from orchestrator.errors import EngineError
from orchestrator.images.pull import Display, Transfer

STEPS = (
    PullProgress(layer="a", status="Pulling fs layer"),
    PullProgress(layer="b", status="Already exists"),
    PullProgress(layer="a", status="Downloading", current=1_000_000, total=4_000_000),
    PullProgress(layer="a", status="Download complete"),
    PullProgress(layer="a", status="Pull complete"),
    PullProgress(layer="", status="Digest: sha256:0"),
)


class TransferTest(unittest.TestCase):
    """`Transfer`."""

    def test_sizes(self) -> None:
        """Bytes are those of the layers, added up."""
        transfer = Transfer()
        fractions = []
        for step in STEPS:
            transfer.add(step)
            fractions.append(transfer.fraction)
        self.assertRegex(str(transfer), r"^\[#{24}\] 4.0 MB of 4.0 MB 0 s$")
        self.assertEqual(sorted(fractions[1:]), fractions[1:])
        self.assertAlmostEqual(1.0, fractions[-1])


class DisplayTest(unittest.TestCase):
    """`Display`."""

    def shown(self, *, terminal: bool, quiet: bool = False) -> str:
        """What one success and one failure look like."""
        progress._stderr.cache_clear()
        display = Display(quiet=quiet)
        environ = {name: it for name, it in os.environ.items() if name != progress.VARIABLE}
        with (
            mock.patch.dict(os.environ, environ, clear=True),
            contextlib.redirect_stderr(io.StringIO()) as stream,
        ):
            vars(stream)["isatty"] = lambda: terminal
            display.news("old:1", "present")
            with contextlib.suppress(EngineError), display.pulling("bad:1"):
                with display.pulling("new:1"):
                    with mock.patch("orchestrator.images.pull._OFTEN", 0):
                        for step in STEPS:
                            display.step("new:1", step)
                    display.news("new:1", "trying again")
                raise EngineError("no such thing")
            display.news("FAILED bad:1", "no such thing", important=True)
        return stream.getvalue().replace("orchestrator: ", "")

    def test_log(self) -> None:
        """In a log every event is a line, and nothing moves the cursor."""
        expected = [
            "old:1: present",
            "bad:1: pulling",
            "new:1: pulling",
            "new:1: trying again",
            "new:1: pulled and verified, 4.0 MB in 0.0 s",
            "FAILED bad:1: no such thing",
        ]
        shown = re.sub(r"in \d+\.\d s", "in 0.0 s", self.shown(terminal=False))
        self.assertEqual(expected, shown.splitlines())

    def test_terminal(self) -> None:
        """On a terminal each pull has a bar, which is gone at the end."""
        text = self.shown(terminal=True)
        bars = r"\x1b\[2F\x1b\[0Jbad:1: pulling\nnew:1: pulling \[#+-*\] 1.0 MB of 4.0 MB 0 s\n"
        self.assertRegex(text, bars)
        self.assertTrue(text.endswith("\x1b[0JFAILED bad:1: no such thing\n"), text)

    def test_quiet(self) -> None:
        """Quiet says only what went wrong."""
        self.assertEqual("FAILED bad:1: no such thing\n", self.shown(terminal=False, quiet=True))
