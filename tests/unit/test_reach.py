"""From where published ports are reached."""

from __future__ import annotations

import os
import tempfile
import unittest
import unittest.mock
from pathlib import Path

from orchestrator.engine import Endpoint
from orchestrator.engine.reach import EVERYWHERE, LOOPBACK, Reach, find_reach

LOCAL = Endpoint(url="unix:///var/run/docker.sock")
ELSEWHERE = "203.0.113.7"  # an address for documentation: never this machine's


def no_bridge() -> str | None:
    """A daemon that must not be asked."""
    raise AssertionError


class ReachTest(unittest.TestCase):
    """Ports are published no wider than they have to be."""

    def test_a_daemon_here_publishes_on_the_loopback(self) -> None:
        """Its services are reached there, and nowhere else."""
        with unittest.mock.patch("orchestrator.engine.reach._in_container", return_value=False):
            found = find_reach(LOCAL, bridge=no_bridge)
        self.assertEqual(Reach(host=LOOPBACK, bind_address=LOOPBACK), found)

    def test_a_daemon_on_a_loopback_port_is_here(self) -> None:
        """A forwarded TCP port of this machine is this machine."""
        with unittest.mock.patch("orchestrator.engine.reach._in_container", return_value=False):
            found = find_reach(Endpoint(url="tcp://127.0.0.1:2375"), bridge=no_bridge)
        self.assertEqual(LOOPBACK, found.bind_address)

    def test_the_loopback_of_ipv6_is_here_too(self) -> None:
        """Nothing is published on the network because of how this machine is called."""
        with unittest.mock.patch("orchestrator.engine.reach._in_container", return_value=False):
            found = find_reach(Endpoint(url="tcp://[::1]:2375"), bridge=no_bridge)
        self.assertEqual(Reach(host=LOOPBACK, bind_address=LOOPBACK), found)

    def test_a_remote_daemon_publishes_on_its_network(self) -> None:
        """Services are reached at the daemon's own address."""
        found = find_reach(Endpoint(url=f"tcp://{ELSEWHERE}:2376"), bridge=no_bridge)
        self.assertEqual(Reach(host=ELSEWHERE, bind_address=EVERYWHERE), found)

    def test_a_container_beside_its_daemon_uses_the_bridge(self) -> None:
        """The bridge's address is not one of ours, so the daemon's loopback is not either."""
        module = "orchestrator.engine.reach"
        with (
            unittest.mock.patch(f"{module}._in_container", return_value=True),
            unittest.mock.patch(f"{module}._gateway", return_value="172.30.0.1"),
        ):
            found = find_reach(LOCAL, bridge=lambda: ELSEWHERE, host="docker.example")
        self.assertEqual(Reach(host="docker.example", bind_address="172.30.0.1"), found)

    def test_a_container_that_runs_its_own_daemon_uses_the_loopback(self) -> None:
        """Where the bridge's address is ours, so is the daemon's loopback."""
        with unittest.mock.patch("orchestrator.engine.reach._in_container", return_value=True):
            found = find_reach(LOCAL, bridge=lambda: LOOPBACK)
        self.assertEqual(LOOPBACK, found.host)

    def test_a_host_that_only_ssh_knows_is_resolved_by_ssh(self) -> None:
        """DOCKER_HOST=ssh://name works with a name of ~/.ssh/config, as it does for docker."""
        with tempfile.TemporaryDirectory() as folder:
            ssh = Path(folder, "ssh")
            ssh.write_text(f"#!/bin/sh\necho user me\necho hostname {ELSEWHERE}\necho port 22\n")
            ssh.chmod(0o755)
            with unittest.mock.patch.dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}"):
                found = find_reach(Endpoint(url="ssh://me@builder"), bridge=no_bridge)
        self.assertEqual(Reach(host=ELSEWHERE, bind_address=EVERYWHERE), found)

    def test_a_daemon_on_ipv6_publishes_where_it_is_reached(self) -> None:
        """Ports published on every IPv4 address would not be."""
        found = find_reach(Endpoint(url="tcp://[2001:db8::7]:2376"), bridge=no_bridge)
        self.assertEqual(Reach(host="2001:db8::7", bind_address="::"), found)

    def test_the_user_may_ask_for_the_loopback_of_ipv6(self) -> None:
        """Ports are then published on that, and still on no network."""
        with unittest.mock.patch("orchestrator.engine.reach._in_container", return_value=False):
            found = find_reach(LOCAL, bridge=no_bridge, host="::1")
        self.assertEqual(Reach(host="::1", bind_address="::1"), found)

    def test_a_daemon_behind_a_forwarded_port_is_as_remote_as_the_user_says(self) -> None:
        """Its own loopback is out of reach, so ports are published on its network."""
        forwarded = Endpoint(url="tcp://localhost:2375")
        with unittest.mock.patch("orchestrator.engine.reach._in_container", return_value=False):
            found = find_reach(forwarded, bridge=no_bridge, host=ELSEWHERE)
        self.assertEqual(Reach(host=ELSEWHERE, bind_address=EVERYWHERE), found)

    def test_the_user_has_the_last_word_on_the_host(self) -> None:
        """ORCHESTRATOR_HOST replaces the guess."""
        found = find_reach(Endpoint(url=f"tcp://{ELSEWHERE}:2376"), bridge=no_bridge, host="other")
        self.assertEqual("other", found.host)
