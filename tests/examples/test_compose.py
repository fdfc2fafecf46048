"""A Compose file as it is: the queue and the worker of a shop, tested from outside."""

import unittest
from pathlib import Path

import redis

from orchestrator import Compose, ServicesMixin

SHOP = Path(__file__).parent / "shop"


class ShopTest(ServicesMixin, unittest.TestCase):
    """Both services run for the class; the worker's image is built from its Dockerfile."""

    stack = Compose(SHOP / "compose.yaml")

    def setUp(self) -> None:
        """The file's port 6379 is published somewhere else for each class."""
        queue = self.stack["queue"]
        self.client = redis.Redis(host=queue.host, port=queue.port)
        self.addCleanup(self.client.close)

    def test_the_worker_writes_an_invoice(self) -> None:
        """An order of 100 becomes an invoice of 119."""
        self.client.rpush("orders", 100)
        self.assertEqual((b"invoices", b"119"), self.client.blpop(["invoices"], timeout=30))
