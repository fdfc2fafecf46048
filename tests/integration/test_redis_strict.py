"""Redis with strict=True: a test that touches what is another's fails, and both are named."""

from __future__ import annotations

import contextlib
import unittest

import redis

from orchestrator import Redis, ServicesMixin
from orchestrator.errors import ServiceError
from tests.support.classes import LeakCheckedTestCase, run_class


class StrictPrefixTest(ServicesMixin, unittest.TestCase):
    """isolation="prefix"."""

    cache = Redis(isolation="prefix", strict=True)

    def test_a_test_that_keeps_to_itself_passes(self) -> None:
        """Nothing is told of its own keys."""
        self.assertTrue(self.cache.client.set(self.cache.key("k"), 1))

    def test_the_key_of_another_test_is_told_with_both_names(self) -> None:
        """Also when the code under test swallowed the refusal."""
        with type(self).cache.isolated("test_one-1") as one:
            key = one.key("orders")
        with (
            self.assertRaisesRegex(
                ServiceError, "test_two-2 touched the key 'test_one-1:orders' of test_one-1"
            ),
            type(self).cache.isolated("test_two-2") as two,
            contextlib.suppress(redis.exceptions.NoPermissionError),
        ):
            two.client.get(key)

    def test_a_key_without_prefix_is_told(self) -> None:
        """Two tests would share it."""
        with (
            self.assertRaisesRegex(ServiceError, "test_one-1 touched the key 'orders' that does"),
            type(self).cache.isolated("test_one-1") as one,
            contextlib.suppress(redis.exceptions.NoPermissionError),
        ):
            one.client.set("orders", 1)

    def test_a_command_that_concerns_every_key_is_told(self) -> None:
        """Such as FLUSHALL."""
        with (
            self.assertRaisesRegex(ServiceError, "test_one-1 called FLUSHALL"),
            type(self).cache.isolated("test_one-1") as one,
            contextlib.suppress(redis.exceptions.NoPermissionError),
        ):
            one.client.flushall()

    def test_what_one_test_did_is_not_told_of_the_next(self) -> None:
        """Each answers for itself."""
        with (
            self.assertRaises(ServiceError),
            type(self).cache.isolated("test_one-1") as one,
            contextlib.suppress(redis.exceptions.NoPermissionError),
        ):
            one.client.set("orders", 1)
        with type(self).cache.isolated("test_two-2") as two:
            two.client.set(two.key("k"), 1)


class StrictFlushTest(ServicesMixin, unittest.TestCase):
    """isolation="flush", where no other test's keys are there to be touched."""

    cache = Redis(strict=True)

    def test_every_key_and_command_is_ones_own(self) -> None:
        """The server is the test's alone."""
        self.cache.client.set("k", 1)
        self.cache.client.flushall()
        self.cache.client.config_set("hz", "20")

    def test_a_client_of_an_earlier_test_is_told(self) -> None:
        """A worker that goes on after its test cannot write, and is named."""
        with type(self).cache.isolated("test_one-1") as one:
            url = one.url
        with (
            self.assertRaisesRegex(
                ServiceError, "a client of test_one-1 was still at work during test_two-2"
            ),
            type(self).cache.isolated("test_two-2") as two,
        ):
            with self.assertRaises(redis.AuthenticationError), redis.Redis.from_url(url) as late:
                late.set("k", 1)
            self.assertEqual(0, two.client.dbsize())


class StrictClassTest(LeakCheckedTestCase):
    """As a user sees it."""

    def test_the_test_fails(self) -> None:
        """The error is the test's that touched, in a run of the class."""
        keys: list[str] = []

        class Touches(ServicesMixin, unittest.TestCase):
            cache = Redis(isolation="prefix", strict=True)

            def test_a(self) -> None:
                keys.append(self.cache.key("orders"))

            def test_b(self) -> None:
                with contextlib.suppress(redis.RedisError):
                    self.cache.client.get(keys[0])

        [(test, text)] = run_class(Touches).errors
        self.assertTrue(test.id().endswith("Touches.test_b"), test.id())
        self.assertRegex(text, r"test_b-\w+ touched the key 'test_a-\w+:orders' of test_a-")
