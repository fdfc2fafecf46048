"""Ports and private networks, where others have taken what one wanted."""

from __future__ import annotations

import ipaddress
import itertools
import socket
import unittest
import unittest.mock
import uuid
from concurrent import futures

from orchestrator import Redis, ServicesMixin
from orchestrator.engine import Endpoint, connect
from orchestrator.environment import launch
from orchestrator.environment.context import PREFIX, create_private_network, free_port, free_subnets
from orchestrator.errors import EngineError
from orchestrator.settings import SUBNETS, Settings
from tests.faults.private_daemon import PrivateDaemon
from tests.support.classes import LeakCheckedTestCase


class TakenPortTest(LeakCheckedTestCase):
    """Another process took the chosen port between our look and the container's start."""

    def test_another_one_is_chosen_so_many_times(self) -> None:
        """Then the daemon's own words name the port."""
        taken = self.enterContext(socket.create_server(("127.0.0.1", 0))).getsockname()[1]

        class Contended(ServicesMixin, unittest.TestCase):
            cache = Redis()

            def test_it(self) -> None:
                self.assertTrue(self.cache.client.ping())

        ports = [taken, free_port("127.0.0.1")]
        with unittest.mock.patch.object(launch, "free_port", side_effect=ports):
            self.assert_passes(Contended)
        with unittest.mock.patch.object(launch, "free_port", return_value=taken):
            self.assert_error(Contended, "EngineError", str(taken))


class SubnetsTest(unittest.TestCase):
    """Subnets come from the pool and overlap nothing."""

    def test_every_free_subnet_of_the_pool_is_offered_once(self) -> None:
        """Neither a taken one nor a part of a larger taken range."""
        pool = ipaddress.IPv4Network("10.9.0.0/24")
        taken = [ipaddress.IPv4Network("10.9.0.0/25"), ipaddress.IPv4Network("10.9.0.224/28")]
        expected = [ipaddress.IPv4Network(f"10.9.0.{start}/{PREFIX}") for start in (128, 160, 192)]
        self.assertEqual(expected, sorted(free_subnets(pool, taken=taken)))
        self.assertEqual([], list(free_subnets(pool, taken=[ipaddress.IPv4Network("10.0.0.0/8")])))

    def test_processes_begin_at_different_places(self) -> None:
        """Those that choose at once seldom choose the same."""
        pool = ipaddress.IPv4Network("10.0.0.0/12")
        first = {next(free_subnets(pool, taken=[])) for _ in range(20)}
        self.assertGreater(len(first), 15)


class ManyNetworksTest(unittest.TestCase):
    """Docker's own pools end at about thirty networks; here, on a daemon of our own, at three."""

    def setUp(self) -> None:
        """Have a daemon with little room."""
        pool = "--default-address-pool=base=10.77.0.0/26,size=28"
        daemon = PrivateDaemon(options=(pool, "--bip=10.78.0.1/24"))
        self.addCleanup(daemon.close)
        endpoint = Endpoint(url=daemon.start().url)
        self.engine = connect(Settings.from_environment(), endpoint=endpoint)
        self.addCleanup(self.engine.close)

    def create(self, pool: ipaddress.IPv4Network) -> None:
        """Create one more network."""
        name = f"many-{uuid.uuid4().hex[:12]}"
        create_private_network(self.engine, name, labels={}, pool=pool)

    def test_more_classes_than_docker_has_networks_for(self) -> None:
        """Those that start at once do not overlap; when both pools are used up, it is told how."""
        with futures.ThreadPoolExecutor(8) as workers:
            list(workers.map(self.create, [SUBNETS] * 16))
        subnets = [ipaddress.IPv4Network(subnet) for subnet in self.engine.subnets()]
        self.assertGreaterEqual(len(subnets), 16)
        overlapping = [
            pair for pair in itertools.combinations(subnets, 2) if pair[0].overlaps(pair[1])
        ]
        self.assertEqual([], overlapping)
        narrow = ipaddress.IPv4Network("10.231.7.0/26")
        for _ in range(2):
            self.create(narrow)
        with self.assertRaisesRegex(EngineError, r"10\.231\.7\.0/26.*ORCHESTRATOR_SUBNETS"):
            self.create(narrow)
