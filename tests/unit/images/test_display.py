"""What a person sees of a pull."""

import contextlib
import io
import unittest

from orchestrator.engine.api import PullProgress
from orchestrator.errors import EngineError
from orchestrator.images.display import Display, Transfer

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
        self.assertEqual("4.0 MB of 4.0 MB", str(transfer))
        self.assertEqual(sorted(fractions[1:]), fractions[1:])
        self.assertAlmostEqual(1.0, fractions[-1])


class DisplayTest(unittest.TestCase):
    """`Display`."""

    def shown(self, *, bars: bool, quiet: bool = False) -> str:
        """What one success and one failure look like."""
        stream = io.StringIO()
        display = Display(stream, bars=bars, quiet=quiet)
        display.news("old:1", "present")
        with contextlib.suppress(EngineError), display.pulling("bad:1"):
            with display.pulling("new:1"):
                for step in STEPS:
                    display.step("new:1", step)
                display.news("new:1", "trying again")
            raise EngineError("no such thing")
        display.news("FAILED bad:1", "no such thing", important=True)
        return stream.getvalue()

    def test_log(self) -> None:
        """In a log every event is a line, and nothing moves the cursor."""
        text = self.shown(bars=False)
        self.assertNotIn("\x1b", text)
        expected = [
            "old:1: present",
            "bad:1: pulling",
            "new:1: pulling",
            "new:1: trying again",
            "new:1: pulled and verified, 4.0 MB in 0.0 s",
            "FAILED bad:1: no such thing",
        ]
        self.assertEqual(expected, text.splitlines())

    def test_terminal(self) -> None:
        """On a terminal there are bars, which are gone at the end."""
        text = self.shown(bars=True)
        self.assertIn("[", text)
        self.assertIn("new:1: pulled and verified", text)
        self.assertTrue(text.endswith("FAILED bad:1: no such thing\n"), text)

    def test_quiet(self) -> None:
        """Quiet says only what went wrong."""
        self.assertEqual("FAILED bad:1: no such thing\n", self.shown(bars=False, quiet=True))
