"""Finding the daemon."""

from __future__ import annotations

import hashlib
import json
import tempfile
import unittest
from pathlib import Path

from orchestrator.engine.endpoint import LOCAL, Endpoint, find_endpoint
from orchestrator.errors import EngineError


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
