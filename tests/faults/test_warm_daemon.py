"""Warm servers on a daemon that is restarted meanwhile."""

from __future__ import annotations

from orchestrator.engine import connect, find_endpoint
from orchestrator.settings import Settings
from tests.faults.daemon import Daemon
from tests.faults.private_daemon import PrivateDaemon
from tests.faults.warm_case import WarmTestCase

_TEST = """
    import sys, unittest
    from orchestrator import Container, ServicesMixin

    class WarmTest(ServicesMixin, unittest.TestCase):
        it = Container(image="{image}")

        def test_it_runs(self):
            print("served by", self.it.container_id, file=sys.stderr)
            self.assertEqual("running", self.it.state().status)
"""


class RestartedDaemonTest(WarmTestCase):
    """On a daemon of the test's own."""

    def setUp(self) -> None:
        """Have a daemon with an image, for the test and its runs."""
        private = PrivateDaemon()
        self.addCleanup(private.close)
        self.private = private.start()
        super().setUp()
        environ = {"DOCKER_HOST": private.url}
        self.environ |= {**environ, "ORCHESTRATOR_UNLOCKED": "allow"}
        self.engine = connect(Settings(), endpoint=find_endpoint(environ))
        self.addCleanup(self.engine.close)
        daemon = Daemon(private.url)
        self.addCleanup(daemon.client.close)
        self.write("test_warm.py", _TEST.format(image=daemon.image()))

    def test_class_has_servers_of_its_own(self) -> None:
        """Those that were kept have ended with the daemon, and are removed."""
        self.serve()
        session = self.keeper()["session"]
        kept = self.kept(session)
        self.private.stop()
        self.private.start()
        self.assertNotIn(self.serve(), kept)
        self.await_gone(session)
