"""The timeline: what is recorded, and the page it becomes."""

from __future__ import annotations

import tempfile
import unittest
from html.parser import HTMLParser
from pathlib import Path

from orchestrator.environment.timeline import CLASS, Span, Timeline, add_to_page


class Page(HTMLParser):
    """What a browser would find in the page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.text = ""
        self.sources: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep titles of bars, and what would be loaded from elsewhere."""
        values = dict(attrs)
        if tag == "i" and values.get("title"):
            self.titles.append(str(values["title"]))
        self.sources += [str(values[name]) for name in ("src", "href") if name in values]
        if tag == "script":
            self.sources.append("script")

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        self.text += data


def timeline(name: str = "shop.CheckoutTest") -> Timeline:
    """A start of two services, one of which waits for the other."""
    found = Timeline(test_class=name, needs={"db": [], "web": ["db"]})
    found.spans.extend(
        [
            Span(row=CLASS, phase="network", began=0.0, ended=0.1),
            Span(row="db", phase="create", began=0.0, ended=0.5),
            Span(row="db", phase="probe", began=0.5, ended=2.0),
            Span(row="web", phase="create", began=2.0, ended=2.5),
        ]
    )
    return found


class TimelineTest(unittest.TestCase):
    """`Timeline`."""

    def test_a_span_is_recorded_also_when_it_fails(self) -> None:
        """What failed took its time, too."""
        found = Timeline(test_class="a", needs={"db": []})
        with self.assertRaises(ZeroDivisionError), found.span("db", "probe"):
            _ = 1 / 0
        [span] = found.spans
        self.assertEqual(("db", "probe"), (span.row, span.phase))
        self.assertGreaterEqual(span.ended, span.began)

    def test_a_service_shows_what_it_waited_for(self) -> None:
        """From the beginning until its own first step."""
        first = timeline().rows()["web"][0]
        self.assertEqual(("waits for db", 0.0, 2.0), (first.phase, first.began, first.ended))


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
        page = Page(self.path)
        for title in ("network: 0.100 s", "probe: 1.500 s, from 0.500 s", "waits for db: 2.000 s"):
            self.assertTrue(any(title in found for found in page.titles), page.titles)
        for text in ("shop.CheckoutTest", "ready after 2.50 s; the last was web", "db"):
            self.assertIn(text, page.text)
        self.assertEqual([], page.sources)

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
        told = "<b>db exited</b>\nlog: \\x1b[31m\\u202e\\x07"
        self.assertIn(f"failed after 2.50 s: {told}", Page(self.path).text)

    def test_a_start_that_failed_before_anything_was_recorded_is_shown(self) -> None:
        """There are no bars then."""
        empty = Timeline(test_class="a.A", needs={})
        add_to_page(self.path, empty, run="1", error="no daemon")
        self.assertIn("failed after 0.00 s: no daemon", Page(self.path).text)
