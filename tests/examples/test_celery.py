"""Celery: tasks in a worker of this process, with Redis as broker and for results."""

import gc
import unittest
from typing import Any

from celery import Celery, shared_task
from celery.contrib.testing.worker import start_worker

from orchestrator import Redis, ServicesMixin


@shared_task(name="shop.total")
def total(prices: list[int]) -> int:
    """What an order costs."""
    return sum(prices)


@shared_task(name="shop.charge", autoretry_for=(ConnectionError,), default_retry_delay=0, bind=True)
def charge(self: Any, amount: int) -> str:
    """A payment whose first attempt fails."""
    if self.request.retries == 0:
        raise ConnectionError
    return f"{amount} paid"


class TasksTest(ServicesMixin, unittest.TestCase):
    """Each test begins with an empty broker, and has an application and a worker of its own."""

    queue = Redis()

    def setUp(self) -> None:
        """An application keeps its first broker, so each server needs one of its own."""
        url = self.queue.url
        app = self.enterContext(Celery("shop", broker=url, backend=url))
        self.enterContext(start_worker(app, perform_ping_check=False))
        # A result says goodbye to Redis when it is collected: now, not when Redis is gone.
        self.addCleanup(gc.collect)

    def test_a_task_is_done(self) -> None:
        """Sent through Redis, done by the worker, and its result read from Redis."""
        self.assertEqual(30, total.delay([10, 20]).get(timeout=10))

    def test_a_task_is_tried_again(self) -> None:
        """The second attempt succeeds."""
        self.assertEqual("30 paid", charge.delay(30).get(timeout=10))
