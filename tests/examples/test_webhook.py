"""A webhook: a service in a container calls the test process."""

import http.server
import queue
import threading
import unittest

from orchestrator import Container, ServicesMixin

# Stands for a shop that calls whom it is told to.
SHOP = """
import os, urllib.request
urllib.request.urlopen(os.environ["WEBHOOK"], data=b"paid", timeout=10)
"""


class WebhookTest(ServicesMixin, unittest.TestCase):
    """The test listens; the container finds it as host.docker.internal."""

    shop = Container(image="python", command=["sleep", "infinity"])

    def setUp(self) -> None:
        """Listen where containers can reach it, until the test ends."""
        self.calls: queue.Queue[bytes] = queue.Queue()
        calls = self.calls

        class Webhook(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                calls.put(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        everywhere = ("0.0.0.0", 0)  # noqa: S104 - containers do not see this machine's loopback
        server = self.enterContext(http.server.ThreadingHTTPServer(everywhere, Webhook))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        self.webhook = f"http://host.docker.internal:{server.server_port}/paid"

    def test_the_shop_calls_back(self) -> None:
        """What it sends arrives here."""
        told = self.shop.exec(["python", "-c", SHOP], env={"WEBHOOK": self.webhook})
        self.assertEqual(0, told.exit_code, told.stderr)
        self.assertEqual(b"paid", self.calls.get(timeout=10))
