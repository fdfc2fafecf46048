"""Redis: options, clients, users, databases and TLS on a real server."""

import socket
import ssl
import sys
import unittest
import unittest.mock
from pathlib import Path

import redis

from orchestrator import Redis, ServicesMixin
from orchestrator.errors import DeclarationError, MissingDriverError
from tests.support.classes import LeakCheckedTestCase

AWKWARD = """it's "100%" of p@ss: /\\w?ö€rd#&$HOME `x` ;--"""


class RedisTest(ServicesMixin, unittest.IsolatedAsyncioTestCase):
    """A password in which every character is special somewhere; certificates; each other's peer."""

    cache = Redis(
        maxmemory="8mb",
        maxmemory_policy="allkeys-lru",
        settings={"databases": 20},
        users={"app": "~app:* &app:* +@all -@dangerous", "reader": "~* +@read"},
        password=AWKWARD,
    )
    my_tls = Redis(tls=True, isolation="prefix")  # a name that only Docker allows

    def test_info_tells_version_limit_and_policy(self) -> None:
        """What one prints when a test fails."""
        info = self.cache.info()
        self.assertRegex(str(info["server"]), r"^Redis \d+\.\d+\.\d+ \(standalone\)$")
        self.assertEqual(("8.00M", "allkeys-lru"), (info["maxmemory"], info["maxmemory_policy"]))
        self.assertIn("used_memory_peak", info)

    def test_a_user_may_do_what_its_rules_say(self) -> None:
        """And nothing else; without the password nothing is answered."""
        self.assertTrue(self.cache.as_user("app").client.set("app:1", "x"))
        self.assertEqual(b"x", self.cache.as_user("reader").client.get("app:1"))
        for user, key in (("app", "other:1"), ("reader", "app:1")):
            with self.subTest(user), self.assertRaises(redis.exceptions.NoPermissionError):
                self.cache.as_user(user).client.set(key, "y")
        with (
            redis.Redis(host=self.cache.host, port=self.cache.port) as stranger,
            self.assertRaises(redis.AuthenticationError),
        ):
            stranger.ping()

    def test_databases_are_apart(self) -> None:
        """A key of one is not in the other; one handle each."""
        self.cache.in_database(19).client.set("k", "19")
        self.assertIsNone(self.cache.client.get("k"))
        with redis.Redis.from_url(self.cache.in_database(19).url) as client:
            self.assertEqual(b"19", client.get("k"))
        self.assertIs(self.cache.in_database(3).client, self.cache.in_database(3).client)

    def test_what_is_not_there_is_named(self) -> None:
        """The error lists what there is, or what to install."""
        with self.assertRaisesRegex(DeclarationError, "the databases 0 to 19, not 20"):
            self.cache.in_database(20)
        with self.assertRaisesRegex(DeclarationError, "no user 'boss'; it has 'app', 'reader'"):
            self.cache.as_user("boss")
        with (
            unittest.mock.patch.dict(sys.modules, {"redis": None}),
            self.assertRaisesRegex(MissingDriverError, r"redis.*'unittest-orchestrator\[redis\]'"),
        ):
            _ = self.cache.client

    def test_clients_are_closed_after_the_test(self) -> None:
        """Their connections end with the test's state, those to other databases too."""
        with type(self).cache.isolated("test_one-1") as one:
            one.client.ping()
            one.in_database(1).client.ping()
        with type(self).cache.isolated("test_two-2") as two:
            names = [client["cmd"] for client in two.client.client_list()]
        self.assertEqual(1, sum(name == "client|list" for name in names))
        self.assertNotIn("ping", names)

    async def test_clients_over_tls_are_ready_to_use(self) -> None:
        """Both kinds trust the server, and nobody has to close them."""
        self.assertTrue(self.my_tls.client.set(self.my_tls.key("k"), "v"))
        self.assertEqual(b"v", await self.my_tls.async_client.get(self.my_tls.key("k")))

    def test_the_url_names_what_to_trust(self) -> None:
        """A program that is given it verifies the server; the file goes after the test."""
        with type(self).my_tls.isolated("test_one-1") as one:
            path = Path(one.ca_file or "?")
            with redis.Redis.from_url(one.url) as client:
                self.assertTrue(client.set(one.key("k"), "v"))
        self.assertTrue(one.url.startswith("rediss://test_one-1:"))
        self.assertFalse(path.exists())

    def test_who_does_not_know_the_authority_is_not_served(self) -> None:
        """Nobody whom the machine trusts has signed the certificate; plain text is not answered."""
        for scheme, said in (("rediss", "CERTIFICATE_VERIFY_FAILED"), ("redis", "")):
            address = f"{scheme}://{self.my_tls.host}:{self.my_tls.port}"
            with (
                self.subTest(scheme),
                redis.Redis.from_url(address, retry=None) as client,
                self.assertRaisesRegex(redis.ConnectionError, said),
            ):
                client.ping()

    def test_other_containers_verify_the_alias(self) -> None:
        """The certificate has the service's name, as it is and without the underscore."""
        context = ssl.create_default_context(cafile=self.my_tls.ca_file)
        for name in ("my_tls", "my-tls", "localhost", self.my_tls.host):
            with (
                self.subTest(name),
                socket.create_connection((self.my_tls.host, self.my_tls.port), 10) as plain,
                context.wrap_socket(plain, server_hostname=name) as secured,
            ):
                secured.sendall(b"PING\r\n")
                self.assertIn(b"NOAUTH", secured.recv(100))
        pem = Path(self.my_tls.ca_file or "?").read_text()
        self.cache.exec(["sh", "-c", 'printf "%s" "$0" > /tmp/ca.pem', pem])
        asks = ["redis-cli", "-u", self.my_tls.internal_url, "--cacert", "/tmp/ca.pem", "ping"]
        self.assertIn("PONG", self.cache.exec(asks).output)

    def test_it_comes_back_after_a_restart(self) -> None:
        """With the same certificate, and the test's own user: clients go on."""
        before = ssl.get_server_certificate((self.my_tls.host, self.my_tls.port))
        self.my_tls.restart()
        self.assertTrue(self.my_tls.client.set(self.my_tls.key("k"), "v"))
        after = ssl.get_server_certificate((self.my_tls.host, self.my_tls.port))
        self.assertEqual(before, after)


class BadConfigurationTest(LeakCheckedTestCase):
    """A server that does not start is an error with its own words, and nothing is left."""

    def test_what_does_not_exist_is_named(self) -> None:
        """A setting, a rule, the password of a command of one's own: what is wrong with it."""
        for declared, *said in (
            (Redis(settings={"maxmemory-sample": "5"}), "Bad directive", "maxmemory-sample"),
            (Redis(users={"app": "+nosuchcommand"}), "nosuchcommand"),
            (Redis(command=["redis-server", "--requirepass", "x"]), "refuses", "password="),
        ):
            with self.subTest(said):
                self.assert_cannot_start("cache", *said, cache=declared)
