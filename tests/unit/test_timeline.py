"""The timeline: what is recorded, and the page it becomes."""

from __future__ import annotations

import re
import tempfile
import unittest
from pathlib import Path

from orchestrator.environment.timeline import CLASS, Span, Timeline, add_to_page


def timeline(name: str = "shop.CheckoutTest") -> Timeline:
    """A start of two services, one of which waits for the other."""
    found = Timeline(test_class=name, needs={"db": [], "web": ["db"]})
    found.spans.extend(
        [
            Span(row=CLASS, phase="session", began=0.0, ended=0.1),
            Span(row="db", phase="create", began=0.3, ended=0.5),
            Span(row="db", phase="probe", began=0.5, ended=2.0),
            Span(row="web", phase="create", began=2.0, ended=2.5),
        ]
    )
    return found


class PageTest(unittest.TestCase):
    """`add_to_page`."""

    def setUp(self) -> None:
        """A place for the page."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "new" / "timeline.html"

    def test_every_span_is_a_bar_that_tells_its_time(self) -> None:
        """Beside the names of class and services, with nothing to load from elsewhere."""
        add_to_page(self.path, timeline(), run="1", error=None)
        text = self.path.read_text()
        for title in ("session: 0.100 s", "probe: 1.500 s, from 0.500 s", "waits for db: 2.000 s"):
            self.assertIn(f'title="{title}', text)
        for gap in ("waits for the session: 0.100 s", "own work before create: 0.200 s, from 0.1"):
            self.assertIn(f'title="{gap}', text)
        for part in ("shop.CheckoutTest", "ready after 2.50 s; the last was web", ">db<"):
            self.assertIn(part, text)
        self.assertNotRegex(text, "<script|src=|href=|url\\(|@import")

    def test_ticks_are_round(self) -> None:
        """Five or so, whatever the time."""
        for seconds, ticks in (
            (2.5, "0 0.5 1 1.5 2 2.5"),
            (0.37, "0 0.1 0.2 0.3"),
            (65, "0 20 40 60"),
        ):
            found = Timeline(test_class="a.A", needs={"db": []})
            found.spans.append(Span(row="db", phase="start", began=0.0, ended=seconds))
            path = self.path.with_name(f"{seconds}.html")
            add_to_page(path, found, run="1", error=None)
            self.assertEqual(ticks, " ".join(re.findall(r'%">([\d.]+)</span>', path.read_text())))

    def test_classes_of_one_run_share_a_page(self) -> None:
        """Whichever process they come from; another run begins a new one."""
        for name, run in (("last.Week", "1"), ("a.A", "2"), ("b.B", "2")):
            add_to_page(self.path, timeline(name), run=run, error=None)
        text = self.path.read_text()
        found = [name in text for name in ("last.Week", "a.A", "b.B")]
        self.assertEqual([False, True, True], found)
        self.assertEqual(1, text.count("<h1>"))

    def test_a_failed_start_says_why(self) -> None:
        """What the error says is text, not markup."""
        error = "<b>db exited</b>\nlog: \x1b[31m\u202e\x07"
        add_to_page(self.path, timeline(), run="1", error=error)
        told = "&lt;b&gt;db exited&lt;/b&gt;\nlog: \\x1b[31m\\u202e\\x07"
        self.assertIn(f"failed after 2.50 s: {told}", self.path.read_text())
        add_to_page(self.path, Timeline(test_class="a.A", needs={}), run="1", error="no daemon")
        self.assertIn("failed after 0.00 s: no daemon", self.path.read_text())  # without bars
