"""A network's subnet, where Docker has none left."""

from __future__ import annotations

import unittest
from ipaddress import IPv4Network

from orchestrator.environment.context import PREFIX, free_subnets


class SubnetsTest(unittest.TestCase):
    """Subnets come from the pool and overlap nothing."""

    def test_every_subnet_of_the_pool_is_offered_once(self) -> None:
        """A pool of 256 addresses has eight subnets."""
        pool = IPv4Network("10.9.0.0/24")
        expected = set(pool.subnets(new_prefix=PREFIX))
        offered = list(free_subnets(pool, taken=[]))
        self.assertEqual((expected, len(expected)), (set(offered), len(offered)))

    def test_what_is_taken_is_skipped(self) -> None:
        """Neither a taken subnet nor a part of a larger taken range is offered."""
        pool = IPv4Network("10.9.0.0/24")
        taken = [IPv4Network("10.9.0.0/25"), IPv4Network("10.9.0.224/28")]
        expected = {IPv4Network(f"10.9.0.{start}/27") for start in (128, 160, 192)}
        self.assertEqual(expected, set(free_subnets(pool, taken=taken)))

    def test_a_pool_that_is_all_taken_offers_nothing(self) -> None:
        """A range that covers the pool leaves nothing."""
        pool = IPv4Network("10.9.0.0/24")
        self.assertEqual([], list(free_subnets(pool, taken=[IPv4Network("10.0.0.0/8")])))

    def test_processes_begin_at_different_places(self) -> None:
        """Those that choose at once seldom choose the same."""
        pool = IPv4Network("10.0.0.0/12")
        first = {next(free_subnets(pool, taken=[])) for _ in range(20)}
        self.assertGreater(len(first), 15)
