"""Where the daemon is, and from where its published ports are reached."""

import hashlib
import json
import tempfile
import unittest
import unittest.mock
from pathlib import Path

from orchestrator.engine.endpoint import (
    EVERYWHERE,
    LOCAL,
    LOOPBACK,
    Endpoint,
    PublishedAddress,
    find_endpoint,
    published_address,
)
from orchestrator.errors import EngineError

HERE = Endpoint(url=LOCAL)
ELSEWHERE = "203.0.113.7"  # an address for documentation: never this machine's
# A default route over 172.30.0.1, and the network 172.30.0.0/16 beside it; as the kernel writes it.
TABLE = """\
Iface Destination Gateway  Flags RefCnt Use Metric Mask     MTU Window IRTT
eth0  00000000    01001EAC 0003  0      0   0      00000000 0   0      0
eth0  00001EAC    00000000 0001  0      0   0      0000FFFF 0   0      0
"""


class EndpointTest(unittest.TestCase):
    """The daemon is found the way the docker command finds it."""

    def setUp(self) -> None:
        """Have a home of our own, without docker's configuration."""
        self.home = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.environ = {"HOME": str(self.home)}

    def add_context(self, name: str, docker: object) -> None:
        """Write a docker context's metadata."""
        key = hashlib.sha256(name.encode()).hexdigest()
        meta = self.home / ".docker" / "contexts" / "meta" / key
        meta.mkdir(parents=True)
        content = {"Name": name, "Endpoints": {"docker": docker}}
        (meta / "meta.json").write_text(json.dumps(content), encoding="utf-8")

    def test_proxies_are_those_that_docker_takes(self) -> None:
        """By Go's rules, each tried with docker: HTTP(S)_PROXY less NO_PROXY; not for here."""
        far, ip = "tcp://far.example:2375", "tcp://192.0.2.7:2375"
        for host, tls, given, used in (
            (far, "", {"HTTP_PROXY": "a:1"}, ("HTTP_PROXY", "http://a:1")),
            (far, "", {"http_proxy": "http://a:1"}, ("http_proxy", "http://a:1")),
            (far, "1", {"HTTP_PROXY": "a:1", "https_proxy": "b:1"}, ("https_proxy", "http://b:1")),
            (far, "", {"ALL_PROXY": "a:1", "HTTPS_PROXY": "a:1"}, None),
            (far, "", {"HTTP_PROXY": "a:1", "NO_PROXY": "x, .EXAMPLE"}, None),
            (far, "", {"HTTP_PROXY": "a:1", "NO_PROXY": "example:2375"}, None),
            (far, "", {"HTTP_PROXY": "a:1", "NO_PROXY": ".far.example,r.example"}, "used"),
            (ip, "", {"HTTP_PROXY": "a:1", "NO_PROXY": "192.0.2.0/24"}, None),
            (ip, "", {"HTTP_PROXY": "a:1", "NO_PROXY": "192.0.2.7:1,2.7"}, "used"),
            ("tcp://[fd00::7]", "", {"HTTP_PROXY": "a:1", "NO_PROXY": "fd00::/8"}, None),
            ("tcp://127.0.0.9", "", {"HTTP_PROXY": "a:1"}, None),
            ("ssh://far", "", {"HTTP_PROXY": "a:1"}, None),
            ("", "", {"HTTP_PROXY": "a:1"}, None),
        ):
            with self.subTest(host, given=given):
                environ = {**self.environ, "DOCKER_HOST": host, "DOCKER_TLS": tls, **given}
                expected = ("HTTP_PROXY", "http://a:1") if used == "used" else used
                self.assertEqual(expected, find_endpoint(environ).proxy)

    def test_it_is_found_the_way_docker_finds_it(self) -> None:
        """DOCKER_HOST, else DOCKER_CONTEXT, else the current context, else the local socket."""
        self.assertEqual(Endpoint(url=LOCAL), find_endpoint(self.environ))
        self.add_context("far", {"Host": "ssh://me@far"})
        self.add_context("other", {"Host": "tcp://other:2375"})
        config = self.home / ".docker" / "config.json"
        config.write_text(json.dumps({"currentContext": "far"}), encoding="utf-8")
        self.assertEqual(Endpoint(url="ssh://me@far"), find_endpoint(self.environ))
        environ = {**self.environ, "DOCKER_CONTEXT": "other"}
        self.assertEqual(Endpoint(url="tcp://other:2375"), find_endpoint(environ))
        environ["DOCKER_HOST"] = "tcp://[::1]:2375"
        self.assertEqual("::1", find_endpoint(environ).hostname)
        environ |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/certs"}
        self.assertEqual(Path("/certs"), find_endpoint(environ).tls)

    def test_what_is_no_address_is_a_clear_error(self) -> None:
        """It names the variable or the context, and what is expected."""
        for variable, value, told in (
            ("DOCKER_CONTEXT", "gone", "docker context 'gone'"),
            ("DOCKER_HOST", "npipe:////./pipe/docker", "DOCKER_HOST is 'npipe:.*WSL 2, .* Linux"),
            ("DOCKER_HOST", "tcp://::1:2375", r"tcp://\[::1\]:2376"),
            ("DOCKER_HOST", "far:port", "DOCKER_HOST is 'far:port'.*tcp://host:2376"),
            ("DOCKER_HOST", "a b", "DOCKER_HOST is 'a b'"),
            ("DOCKER_HOST", "ssh://", "DOCKER_HOST"),
            ("DOCKER_HOST", "ssh://me:secret@far", "DOCKER_HOST"),
            ("DOCKER_HOST", "tcp://far:2375/behind/a/proxy", "DOCKER_HOST"),
        ):
            with self.subTest(value), self.assertRaisesRegex(EngineError, told):
                find_endpoint({**self.environ, variable: value})

    def test_what_docker_completes_is_completed(self) -> None:
        """Without a scheme it is TCP; ports are 2375, and 2376 with TLS; the host is this one."""
        for given, secure, expected in (
            ("tcp://docker", "", "tcp://docker:2375"),
            ("tcp://docker", "1", "tcp://docker:2376"),
            ("tcp://docker:1234", "1", "tcp://docker:1234"),
            ("docker:2375", "", "tcp://docker:2375"),
            (" docker ", "", "tcp://docker:2375"),
            ("tcp://[::1]", "", "tcp://[::1]:2375"),
            (":2375", "", "tcp://localhost:2375"),
            ("tcp://", "1", "tcp://localhost:2376"),
            ("unix://", "", LOCAL),
            ("/run/docker.sock", "", "unix:///run/docker.sock"),
        ):
            with self.subTest(given, secure=secure):
                environ = {**self.environ, "DOCKER_HOST": given, "DOCKER_TLS_VERIFY": secure}
                self.assertEqual(expected, find_endpoint(environ).url)
        environ = {**self.environ, "DOCKER_HOST": "tcp://docker", "DOCKER_TLS": "1"}
        unverified = Endpoint(url="tcp://docker:2376", tls=self.home / ".docker", verify=False)
        self.assertEqual(unverified, find_endpoint(environ))
        self.add_context("far", {"Host": "tcp://far:2376", "SkipTLSVerify": True})
        found = find_endpoint({**self.environ, "DOCKER_CONTEXT": "far"})
        self.assertEqual((True, False), (found.secure, found.verify))


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

    def test_no_wider_than_it_has_to_be(self) -> None:
        """The loopback where the daemon is here, its network where it is elsewhere, or said so."""
        for url, told, host, bind_address in (
            (LOCAL, None, LOOPBACK, LOOPBACK),
            ("tcp://127.0.0.1:2375", None, LOOPBACK, LOOPBACK),
            ("tcp://[::1]:2375", None, LOOPBACK, LOOPBACK),
            (LOCAL, "::1", "::1", "::1"),
            (f"tcp://{ELSEWHERE}:2376", None, ELSEWHERE, EVERYWHERE),
            (f"tcp://{ELSEWHERE}:2376", "other", "other", EVERYWHERE),
            ("tcp://[2001:db8::7]:2376", None, "2001:db8::7", "::"),
            ("tcp://localhost:2375", ELSEWHERE, ELSEWHERE, EVERYWHERE),
        ):
            with self.subTest(url=url, told=told):
                found = published_address(Endpoint(url=url), bridge=no_bridge, host=told)
                self.assertEqual(PublishedAddress(host=host, bind_address=bind_address), found)

    def test_a_container_beside_its_daemon_uses_the_bridge(self) -> None:
        """The bridge's address is not one of ours, so the daemon's loopback is not either."""
        self.be_in_container(inside=True)
        table = Path(self.enterContext(tempfile.TemporaryDirectory())) / "route"
        table.write_text(TABLE)
        with unittest.mock.patch("orchestrator.engine.endpoint._ROUTES", table):
            found = published_address(HERE, bridge=lambda: ELSEWHERE, host="docker.example")
        self.assertEqual(PublishedAddress(host="docker.example", bind_address="172.30.0.1"), found)

    def test_a_container_that_runs_its_own_daemon_uses_the_loopback(self) -> None:
        """Where the bridge's address is ours, so is the daemon's loopback."""
        self.be_in_container(inside=True)
        found = published_address(HERE, bridge=lambda: LOOPBACK)
        self.assertEqual(LOOPBACK, found.host)
