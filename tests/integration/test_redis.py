"""Redis: options, clients, users, databases and TLS; what each test gets, and leaves."""

import socket
import ssl
import sys
import unittest
import unittest.mock
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis

from orchestrator import Redis, ServicesMixin
from orchestrator.errors import DeclarationError, MissingDriverError, ServiceError
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


def rules(handle: Redis) -> list[set[str]]:
    """Each user's rules, but for one that a server writes down or leaves out."""
    lines = (str(line) for line in handle.client.acl_list())
    return [set(line.split()) - {"sanitize-payload"} for line in lines]


class IsolationTest(ServicesMixin, unittest.TestCase):
    """Each kind of isolation, by a server of its own."""

    cache = Redis(  # what is written a second later is lost when the machine is busy
        settings={"appendonly": True, "appendfsync": "always", "protected-mode": True},
        users={"app": "~* +@all"},
    )
    prefixed = Redis(isolation="prefix", settings={"notify-keyspace-events": "KEA"})
    renamed = Redis(command=["redis-server", "--rename-command", "INFO", ""], isolation="none")

    # "flush", the default

    def test_the_server_is_empty(self) -> None:
        """Keys of every database, scripts and functions are gone."""
        with type(self).cache.isolated("test_one-1") as one:
            one.client.set("k", "v")
            one.in_database(7).client.set("k", "v")
            digest = one.client.script_load("return 1")
            one.client.function_load("#!lua name=lib\nredis.register_function('f', function() end)")
        with type(self).cache.isolated("test_two-2") as two:
            self.assertEqual({}, two.client.info("keyspace"))
            self.assertEqual([False], two.client.script_exists(digest))
            self.assertEqual([], two.client.function_list())

    def test_settings_are_what_they_were(self) -> None:
        """CONFIG SET is undone, also after CONFIG RESETSTAT; what the class has set is its own."""
        type(self).cache.client.config_set("hz", "50")
        for reset in (False, True):
            with type(self).cache.isolated("test_one-1") as one:
                one.client.config_set("hz", "60")
                one.client.config_set("notify-keyspace-events", "KEA")
                if reset:
                    one.client.config_resetstat()
            with type(self).cache.isolated("test_two-2") as two:
                found = two.client.config_get("hz", "notify-keyspace-events")
                self.assertEqual({"hz": "50", "notify-keyspace-events": ""}, found)

    def test_users_are_what_they_were(self) -> None:
        """A new one is dropped, a changed one is put back, a dropped one returns."""
        with type(self).cache.isolated("test_one-1") as one:
            users = rules(one)
            one.client.acl_setuser("guest", enabled=True, nopass=True, keys="*")
            one.client.acl_deluser("app")
            one.client.acl_setuser("default", enabled=False)
        with type(self).cache.isolated("test_two-2") as two:
            self.assertEqual(users, rules(two))
            self.assertTrue(two.as_user("app").client.ping())

    def test_a_client_that_waits_does_not_take_what_the_next_test_pushes(self) -> None:
        """A worker that was left waiting for a queue is cut off."""

        def work(url: str) -> None:
            with redis.Redis.from_url(url, retry=None) as client:
                client.blpop(["queue"], timeout=60)

        with ThreadPoolExecutor(1) as pool:
            with type(self).cache.isolated("test_one-1") as one:
                worker = pool.submit(work, one.url)
                while not one.client.info("clients")["blocked_clients"]:
                    self.assertFalse(worker.done())
            with self.assertRaises(redis.RedisError):
                worker.result(10)
        with type(self).cache.isolated("test_two-2") as two:
            two.client.rpush("queue", "job")
            self.assertEqual(1, two.client.llen("queue"))

    def test_the_next_test_has_clean_state_after_a_restart(self) -> None:
        """Data that were on the disk are there after it, and gone; a replica is a master again."""
        with type(self).cache.isolated("test_one-1") as one:
            one.as_user("app").client.set("k", "v")
            one.restart()
            self.assertEqual(b"v", one.client.get("k"))
            one.client.replicaof("127.0.0.1", 1)
        with type(self).cache.isolated("test_two-2") as two:
            self.assertEqual(0, two.client.dbsize())
            self.assertTrue(two.client.set("k", "v"))

    # "prefix": a user that reaches its own keys only

    def test_ones_own_keys_may_be_used(self) -> None:
        """Keys, channels, scripts, transactions, other databases."""
        client, key = self.prefixed.client, self.prefixed.key
        with client.pipeline() as transaction:
            transaction.set(key("a"), 1)
            transaction.incr(key("a"))
            transaction.execute()
        self.assertEqual(b"2", client.get(key("a")))
        self.assertEqual(3, client.eval("return redis.call('incr', KEYS[1])", 1, key("a")))
        self.assertTrue(self.prefixed.in_database(2).client.set(key("b"), 1))
        with client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe(key("news"), f"__keyspace@0__:{key('c')}")
            subscription.get_message(timeout=60)
            subscription.get_message(timeout=60)
            client.publish(key("news"), "hello")
            self.assertEqual(b"hello", subscription.get_message(timeout=60)["data"])
            client.set(key("c"), 1)
            self.assertEqual(b"set", subscription.get_message(timeout=60)["data"])
        self.assertIn("redis_version", client.info("server"))

    def test_anothers_keys_may_not(self) -> None:
        """Neither directly nor by a script; nor what concerns every key."""
        client = self.prefixed.client
        refused = redis.exceptions.NoPermissionError
        for attempt in (
            lambda: client.get("other:1"),
            lambda: client.set("other:1", 1),
            lambda: client.rename(self.prefixed.key("a"), "other:1"),
            lambda: client.publish("other:news", "hello"),
            client.flushall,
            client.script_flush,
            lambda: client.config_set("maxmemory", 1),
            client.acl_list,
        ):
            with self.assertRaises(refused):
                attempt()
        with self.assertRaisesRegex(redis.ResponseError, "(?i)permission|can't access"):
            client.eval("return redis.call('get', 'other:1')", 0)

    def test_keys_and_user_are_gone_after_the_test(self) -> None:
        """In every database; what the class wrote stays."""
        of_class = type(self).prefixed
        of_class.client.set(of_class.key("seed"), "1")
        with of_class.isolated("test_one-1") as one:
            one.client.mset({one.key(str(number)): number for number in range(2500)})
            one.in_database(5).client.set(one.key("x"), 1)
            kept = one.client
            url = one.url
        self.assertEqual([b"prefixed:seed"], of_class.client.keys("*"))
        self.assertEqual(0, of_class.in_database(5).client.dbsize())
        with self.assertRaises(redis.RedisError), redis.Redis.from_url(url) as again:
            again.ping()
        with self.assertRaises(redis.RedisError):
            kept.ping()

    # "none"

    def test_keys_stay(self) -> None:
        """What one test writes, the next reads; prefixes keep them apart."""
        shared = type(self).cache.copy_with(isolation="none")
        with shared.isolated("test_one-1") as one:
            one.client.set("k", "v")
        with shared.isolated("test_two-2") as two:
            self.assertEqual(b"v", two.client.get("k"))
            self.assertNotEqual(one.prefix, two.prefix)

    # Modes that a user may set

    def test_what_cannot_be_isolated_says_so(self) -> None:
        """A command that is renamed is not there."""
        for isolation in ("flush", "prefix"):
            with (
                self.subTest(isolation),
                self.assertRaisesRegex(ServiceError, "(?s)unknown command.*isolation='none'"),
                type(self).renamed.copy_with(isolation=isolation).isolated("test_one-1"),
            ):
                pass


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
