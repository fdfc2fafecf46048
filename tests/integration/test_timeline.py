"""``ORCHESTRATOR_TIMELINE`` and ``--timeline``, with real starts."""

from __future__ import annotations

from tests.support.processes import ProcessTestCase

FILE = """
import unittest
from orchestrator import Container, Redis, ServicesMixin

class OneTest(ServicesMixin, unittest.TestCase):
    cache = Redis()
    box = Container(image="redis", entrypoint=["sleep", "60"], depends_on=["cache"])
    def test_it(self): pass

class TwoTest(ServicesMixin, unittest.TestCase):
    box = Container(image="redis", entrypoint=["false"], ports=[1])
    def test_it(self): pass
"""


class TimelineTest(ProcessTestCase):
    """One page for a run."""

    def test_the_option_asks_for_the_page(self) -> None:
        """With the parallel runner, whose workers write to one page what they waited for."""
        self.write("test_it.py", FILE)
        argv = ("-m", "orchestrator", "test", "-j", "2", "--timeline", "timeline.html", "test_it")
        status, output = self.run_python(*argv)
        self.assertEqual(1, status, output)
        text = (self.folder / "timeline.html").read_text(encoding="utf-8")
        self.assertEqual(2, text.count("<section>"), text)
        for part in ("test_it.OneTest", "test_it.TwoTest", "waits for cache:"):
            self.assertIn(part, text)
        self.assertRegex(text, "ServiceExitedError: box: .* exited with exit code 1")
        for phase in ("session", "network", "image", "create", "start", "probe", "prepare"):
            self.assertIn(f'title="{phase}: ', text)
