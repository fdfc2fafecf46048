"""One private network per class."""

from __future__ import annotations

import ipaddress
import socket
import unittest
import unittest.mock
from concurrent import futures

from orchestrator import Container, Redis, ServicesMixin
from orchestrator.engine import connect, find_endpoint, labels, ports
from orchestrator.engine.private_network import create_private_network
from orchestrator.environment import launch
from orchestrator.errors import EngineError
from orchestrator.sessions import own_session
from orchestrator.settings import Settings
from tests.support.classes import LeakCheckedTestCase


class NetworkTest(LeakCheckedTestCase):
    """Services find each other by alias, and a free port is found for each."""

    def test_siblings_reach_each_other_by_alias(self) -> None:
        """The attribute's name is a host name on the class's network."""

        class Siblings(ServicesMixin, unittest.TestCase):
            cache = Redis()
            shell = Container(image="redis", command=["sleep", "60"])

            def test_it(self) -> None:
                answer = self.shell.exec(["redis-cli", "-u", self.cache.internal_url, "ping"])
                self.assertIn("PONG", answer.output.splitlines())

        self.assert_passes(Siblings)

    def test_a_port_that_was_taken_meanwhile_is_replaced(self) -> None:
        """Another port is chosen when somebody took the first between look and start."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            choices = [taken.getsockname()[1]]

            def choose(bind_address: str) -> int:
                return choices.pop() if choices else ports.free_port(bind_address)

            class Contended(ServicesMixin, unittest.TestCase):
                cache = Redis()

                def test_it(self) -> None:
                    self.assertTrue(self.cache.client.ping())

            with unittest.mock.patch.object(launch, "free_port", choose):
                self.assert_passes(Contended)

    def test_a_port_that_stays_taken_is_told_after_bounded_attempts(self) -> None:
        """The daemon's own words name the port."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]

            class Blocked(ServicesMixin, unittest.TestCase):
                cache = Redis()

                def test_it(self) -> None: ...

            with unittest.mock.patch.object(launch, "free_port", return_value=port):
                self.assert_error(Blocked, "EngineError", str(port))


class ManyNetworksTest(LeakCheckedTestCase):
    """Docker's own pools end at about thirty networks; ours do not."""

    def setUp(self) -> None:
        """Have an engine and a session."""
        super().setUp()
        self.settings = Settings.from_environment()
        endpoint = find_endpoint()
        self.engine = connect(self.settings, endpoint=endpoint)
        self.addCleanup(self.engine.close)
        self.session = own_session(self.engine, endpoint=endpoint, settings=self.settings)
        self.names: list[str] = []
        self.addCleanup(self.remove_all)

    def remove_all(self) -> None:
        """Remove what this test made."""
        with futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(self.engine.remove_network, self.names))

    def create(self, pool: ipaddress.IPv4Network) -> None:
        """Create one more network."""
        name = self.session.name("many")
        self.names.append(name)
        with self.session.creating("network", name):
            create_private_network(self.engine, name, labels=self.session.labels(), pool=pool)

    def test_a_hundred_networks_at_once_do_not_overlap(self) -> None:
        """A hundred classes can be alive at the same time."""
        with futures.ThreadPoolExecutor(8) as workers:
            list(workers.map(self.create, [self.settings.subnets] * 100))
        made = self.engine.labelled({labels.SESSION: self.session.id})
        self.assertEqual(100, sum(found.kind == "network" for found in made))
        subnets = [ipaddress.ip_network(subnet) for subnet in self.engine.subnets()]
        overlapping = [
            (one, other)
            for number, one in enumerate(subnets)
            for other in subnets[:number]
            if one.version == other.version and one.overlaps(other)
        ]
        self.assertEqual([], overlapping)

    def test_a_used_up_pool_says_what_to_do(self) -> None:
        """When Docker's pools and the configured range are used up, both are named."""
        narrow = ipaddress.IPv4Network("10.231.7.0/26")
        with self.assertRaises(EngineError) as raised:
            for _ in range(40):
                self.create(narrow)
        self.assertIn("10.231.7.0/26", str(raised.exception))
        self.assertIn("ORCHESTRATOR_SUBNETS", str(raised.exception))
