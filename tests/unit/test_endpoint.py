"""Where the daemon is, and from where its published ports are reached."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import unittest
import unittest.mock
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.engine.endpoint import (
    EVERYWHERE,
    LOCAL,
    LOOPBACK,
    Endpoint,
    PublishedAddress,
    Route,
    find_endpoint,
    published_address,
    routes,
)
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Endpoint(url=LOCAL)
ELSEWHERE = "203.0.113.7"  # an address for documentation: never this machine's
# A default route over 172.30.0.1, and the network 172.30.0.0/16 beside it; as the kernel writes it.
TABLE = """\
Iface Destination Gateway  Flags RefCnt Use Metric Mask     MTU Window IRTT
eth0  00000000    01001EAC 0003  0      0   0      00000000 0   0      0
eth0  00001EAC    00000000 0001  0      0   0      0000FFFF 0   0      0
"""


@contextlib.contextmanager
def routing_table(text: str) -> Iterator[None]:
    """Have another table of routes than this machine's."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        with unittest.mock.patch("orchestrator.engine.endpoint._ROUTES", Path(file.name)):
            yield


class EndpointTest(unittest.TestCase):
    """The daemon is found the way the docker command finds it."""

    def setUp(self) -> None:
        """Have a home of our own, without docker's configuration."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = Path(folder.name)
        self.environ = {"HOME": folder.name}

    def add_context(self, name: str, docker: object) -> None:
        """Write a docker context's metadata."""
        key = hashlib.sha256(name.encode()).hexdigest()
        meta = self.home / ".docker" / "contexts" / "meta" / key
        meta.mkdir(parents=True)
        content = {"Name": name, "Endpoints": {"docker": docker}}
        (meta / "meta.json").write_text(json.dumps(content), encoding="utf-8")

    def test_the_local_socket_is_the_default(self) -> None:
        """Without any configuration it is the local unix socket."""
        self.assertEqual(Endpoint(url=LOCAL), find_endpoint(self.environ))

    def test_docker_host_wins(self) -> None:
        """DOCKER_HOST counts before any context."""
        self.add_context("other", {"Host": "tcp://other:2375"})
        environ = {**self.environ, "DOCKER_HOST": "tcp://here:2375", "DOCKER_CONTEXT": "other"}
        self.assertEqual(Endpoint(url="tcp://here:2375"), find_endpoint(environ))

    def test_the_current_context_counts(self) -> None:
        """`docker context use NAME` is honoured."""
        self.add_context("far", {"Host": "ssh://me@far"})
        config = self.home / ".docker" / "config.json"
        config.write_text(json.dumps({"currentContext": "far"}), encoding="utf-8")
        self.assertEqual(Endpoint(url="ssh://me@far"), find_endpoint(self.environ))

    def test_tls_comes_from_the_certificate_folder(self) -> None:
        """DOCKER_TLS_VERIFY and DOCKER_CERT_PATH give the client's certificates."""
        environ = {
            **self.environ,
            "DOCKER_HOST": "tcp://far:2376",
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CERT_PATH": "/certs",
        }
        self.assertEqual(Path("/certs"), find_endpoint(environ).tls)

    def test_an_unknown_context_is_a_clear_error(self) -> None:
        """A context that does not exist is named."""
        with self.assertRaisesRegex(EngineError, "docker context 'gone'"):
            find_endpoint({**self.environ, "DOCKER_CONTEXT": "gone"})

    def test_a_malformed_address_is_a_clear_error(self) -> None:
        """An address that is none names the variable and what is expected."""
        with self.assertRaisesRegex(EngineError, "DOCKER_HOST is 'nonsense'"):
            find_endpoint({**self.environ, "DOCKER_HOST": "nonsense"})

    def test_an_ipv6_address_stands_in_brackets(self) -> None:
        """Without them nobody can tell address from port; the error shows how."""
        url = "tcp://[::1]:2375"
        self.assertEqual("::1", find_endpoint({**self.environ, "DOCKER_HOST": url}).hostname)
        with self.assertRaisesRegex(EngineError, r"tcp://\[::1\]:2376"):
            find_endpoint({**self.environ, "DOCKER_HOST": "tcp://::1:2375"})

    def test_an_address_without_a_port_is_a_clear_error(self) -> None:
        """Whoever writes tcp:// has to say which port."""
        with self.assertRaisesRegex(EngineError, "DOCKER_HOST is 'tcp://far'.*tcp://host:2376"):
            find_endpoint({**self.environ, "DOCKER_HOST": "tcp://far"})

    def test_only_a_daemon_elsewhere_has_a_host_name(self) -> None:
        """A unix socket means this machine."""
        self.assertIsNone(Endpoint(url=LOCAL).hostname)
        self.assertEqual("far", Endpoint(url="ssh://me@far").hostname)


def no_bridge() -> str | None:
    """A daemon that must not be asked."""
    raise AssertionError


class PublishedAddressTest(unittest.TestCase):
    """Ports are published no wider than they have to be."""

    def setUp(self) -> None:
        """Run outside of a container, whatever runs this."""
        self.be_in_container(inside=False)

    def be_in_container(self, *, inside: bool) -> None:
        """Run inside or outside of a container."""
        name = "orchestrator.engine.endpoint._in_container"
        self.enterContext(unittest.mock.patch(name, return_value=inside))

    def test_a_daemon_here_publishes_on_the_loopback(self) -> None:
        """Its services are reached there, and nowhere else."""
        found = published_address(HERE, bridge=no_bridge)
        self.assertEqual(PublishedAddress(host=LOOPBACK, bind_address=LOOPBACK), found)

    def test_a_daemon_on_a_loopback_port_is_here(self) -> None:
        """A forwarded TCP port of this machine is this machine."""
        found = published_address(Endpoint(url="tcp://127.0.0.1:2375"), bridge=no_bridge)
        self.assertEqual(LOOPBACK, found.bind_address)

    def test_the_loopback_of_ipv6_is_here_too(self) -> None:
        """Nothing is published on the network because of how this machine is called."""
        found = published_address(Endpoint(url="tcp://[::1]:2375"), bridge=no_bridge)
        self.assertEqual(PublishedAddress(host=LOOPBACK, bind_address=LOOPBACK), found)

    def test_a_remote_daemon_publishes_on_its_network(self) -> None:
        """Services are reached at the daemon's own address."""
        found = published_address(Endpoint(url=f"tcp://{ELSEWHERE}:2376"), bridge=no_bridge)
        self.assertEqual(PublishedAddress(host=ELSEWHERE, bind_address=EVERYWHERE), found)

    def test_a_container_beside_its_daemon_uses_the_bridge(self) -> None:
        """The bridge's address is not one of ours, so the daemon's loopback is not either."""
        self.be_in_container(inside=True)
        with routing_table(TABLE):
            found = published_address(HERE, bridge=lambda: ELSEWHERE, host="docker.example")
        self.assertEqual(PublishedAddress(host="docker.example", bind_address="172.30.0.1"), found)

    def test_a_container_that_runs_its_own_daemon_uses_the_loopback(self) -> None:
        """Where the bridge's address is ours, so is the daemon's loopback."""
        self.be_in_container(inside=True)
        found = published_address(HERE, bridge=lambda: LOOPBACK)
        self.assertEqual(LOOPBACK, found.host)

    def test_a_host_that_only_ssh_knows_is_resolved_by_ssh(self) -> None:
        """DOCKER_HOST=ssh://name works with a name of ~/.ssh/config, as it does for docker."""
        with tempfile.TemporaryDirectory() as folder:
            ssh = Path(folder, "ssh")
            ssh.write_text(f"#!/bin/sh\necho user me\necho hostname {ELSEWHERE}\necho port 22\n")
            ssh.chmod(0o755)
            with unittest.mock.patch.dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}"):
                found = published_address(Endpoint(url="ssh://me@builder"), bridge=no_bridge)
        self.assertEqual(PublishedAddress(host=ELSEWHERE, bind_address=EVERYWHERE), found)

    def test_a_daemon_on_ipv6_publishes_where_it_is_reached(self) -> None:
        """Ports published on every IPv4 address would not be."""
        found = published_address(Endpoint(url="tcp://[2001:db8::7]:2376"), bridge=no_bridge)
        self.assertEqual(PublishedAddress(host="2001:db8::7", bind_address="::"), found)

    def test_the_user_may_ask_for_the_loopback_of_ipv6(self) -> None:
        """Ports are then published on that, and still on no network."""
        found = published_address(HERE, bridge=no_bridge, host="::1")
        self.assertEqual(PublishedAddress(host="::1", bind_address="::1"), found)

    def test_a_daemon_behind_a_forwarded_port_is_as_remote_as_the_user_says(self) -> None:
        """Its own loopback is out of reach, so ports are published on its network."""
        forwarded = Endpoint(url="tcp://localhost:2375")
        found = published_address(forwarded, bridge=no_bridge, host=ELSEWHERE)
        self.assertEqual(PublishedAddress(host=ELSEWHERE, bind_address=EVERYWHERE), found)

    def test_the_user_has_the_last_word_on_the_host(self) -> None:
        """ORCHESTRATOR_HOST replaces the guess."""
        found = published_address(
            Endpoint(url=f"tcp://{ELSEWHERE}:2376"), bridge=no_bridge, host="other"
        )
        self.assertEqual("other", found.host)


class RoutesTest(unittest.TestCase):
    """The kernel's table of routes."""

    def test_each_row_is_a_route(self) -> None:
        """With its network, and the gateway on the way there."""
        with routing_table(TABLE):
            found = routes()
        network, nobody = IPv4Network("172.30.0.0/16"), IPv4Address(0)
        everything, gateway = IPv4Network("0.0.0.0/0"), IPv4Address("172.30.0.1")
        self.assertEqual(
            [
                Route(destination=everything, gateway=gateway),
                Route(destination=network, gateway=nobody),
            ],
            found,
        )
        self.assertEqual([True, False], [route.is_default for route in found])

    def test_without_a_table_there_is_none(self) -> None:
        """As where the system is not Linux."""
        with unittest.mock.patch("orchestrator.engine.endpoint._ROUTES", Path("/no/such/file")):
            self.assertEqual([], routes())
