"""``--older-than``."""

from __future__ import annotations

import argparse
import unittest

from orchestrator.cli.reap import seconds


class AgeTest(unittest.TestCase):
    """Ages as people write them."""

    def test_ages(self) -> None:
        """Units and their combinations are seconds."""
        for text, expected in (
            ("0", 0),
            ("90", 90),
            ("90s", 90),
            ("30m", 1800),
            ("2h", 7200),
            ("1.5h", 5400),
            ("1h30m", 5400),
            ("1d", 86400),
        ):
            with self.subTest(text=text):
                self.assertEqual(expected, seconds(text))

    def test_no_ages(self) -> None:
        """Anything else is named and refused."""
        for text in ("", "h", "2 h", "-1h", "2w", "1e3", "nan", "h2", "1.2.3h", "\u0661h"):
            with (
                self.subTest(text=text),
                self.assertRaisesRegex(argparse.ArgumentTypeError, "not an age"),
            ):
                seconds(text)
