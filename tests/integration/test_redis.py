"""Redis: options, clients, users and databases on a real server."""

from __future__ import annotations

import subprocess
import sys
import unittest
import unittest.mock
from typing import Any

import redis

from orchestrator import Container, Redis, ServicesMixin
from orchestrator.errors import DeclarationError, MissingDriverError
from orchestrator.services.secret import masked
from tests.support.classes import LeakCheckedTestCase

AWKWARD = """it's "100%" of p@ss: /\\w?ö€rd#&$HOME `x` ;--"""


class ClientsTest(ServicesMixin, unittest.TestCase):
    """How a test connects."""

    cache = Redis(
        maxmemory="8mb",
        maxmemory_policy="allkeys-lru",
        settings={"databases": 20, "notify-keyspace-events": "KEA"},
        users={"app": "~app:* &app:* +@all -@dangerous", "reader": "~* +@read"},
    )
    peer = Container(image="redis", command=["sleep", "600"])

    def test_another_program_connects_by_url(self) -> None:
        """The URL is all that it needs."""
        code = "import redis, sys; print(redis.Redis.from_url(sys.argv[1]).ping())"
        output = subprocess.check_output([sys.executable, "-c", code, self.cache.url], text=True)
        self.assertEqual("True", output.strip())

    def test_another_container_connects_by_its_url(self) -> None:
        """The service's name is its host name there."""
        result = self.peer.exec(["redis-cli", "-u", self.cache.internal_url, "ping"])
        self.assertIn("PONG", result.output)

    def test_a_stranger_is_refused(self) -> None:
        """Without the password nothing is answered."""
        stranger = redis.Redis(host=self.cache.host, port=self.cache.port)
        self.addCleanup(stranger.close)
        with self.assertRaises(redis.AuthenticationError):
            stranger.ping()

    def test_a_process_list_shows_no_password(self) -> None:
        """Neither in the container nor in what Docker tells of it."""
        processes = self.cache.exec(["sh", "-c", "cat /proc/[0-9]*/cmdline /proc/1/environ"]).output
        inspected = subprocess.check_output(
            ["docker", "inspect", self.cache.container_id], text=True
        )
        for user in ("default", "app"):
            self.assertNotIn(self.cache.password_of(user), processes + inspected)

    def test_info_tells_version_limit_and_policy(self) -> None:
        """What one prints when a test fails; no password."""
        info = self.cache.info()
        self.assertRegex(str(info["server"]), r"^Redis \d+\.\d+\.\d+ \(standalone\)$")
        self.assertEqual(("8.00M", "allkeys-lru"), (info["maxmemory"], info["maxmemory_policy"]))
        self.assertIn("used_memory_peak", info)
        self.assertNotIn(self.cache.password, str(info))

    def test_a_user_may_do_what_its_rules_say(self) -> None:
        """And nothing else; its password is secret too."""
        app = self.cache.as_user("app")
        self.assertTrue(app.client.set("app:1", "x"))
        with self.assertRaises(redis.exceptions.NoPermissionError):
            app.client.set("other:1", "x")
        with self.assertRaises(redis.exceptions.NoPermissionError):
            self.cache.as_user("reader").client.set("app:1", "y")
        self.assertEqual(b"x", self.cache.as_user("reader").client.get("app:1"))
        self.assertEqual("it is ***", masked(f"it is {app.password}", self.cache.secrets()))

    def test_databases_are_apart(self) -> None:
        """A key of one is not in the other; one handle each."""
        self.cache.in_database(19).client.set("k", "19")
        self.assertIsNone(self.cache.client.get("k"))
        with redis.Redis.from_url(self.cache.in_database(19).url) as client:
            self.assertEqual(b"19", client.get("k"))
        self.assertIs(self.cache.in_database(3).client, self.cache.in_database(3).client)

    def test_what_is_not_there_is_told(self) -> None:
        """The error lists what there is."""
        with self.assertRaisesRegex(DeclarationError, "the databases 0 to 19, not 20"):
            self.cache.in_database(20)
        with self.assertRaisesRegex(DeclarationError, "no user 'boss'; it has 'app', 'reader'"):
            self.cache.as_user("boss")

    def test_streams(self) -> None:
        """A consumer group reads each entry once, and acknowledges it."""
        client = self.cache.client
        client.xgroup_create("orders", "billing", mkstream=True)
        client.xadd("orders", {"id": "1"})
        answer: Any = client.xreadgroup("billing", "worker", {"orders": ">"}, block=1000)
        [[stream, [[entry, fields]]]] = answer
        self.assertEqual((b"orders", {b"id": b"1"}), (stream, fields))
        self.assertEqual(1, client.xack("orders", "billing", entry))

    def test_keyspace_events(self) -> None:
        """What happens to a key is announced."""
        with self.cache.client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe("__keyspace@0__:k")
            subscription.get_message(timeout=5)
            self.cache.client.set("k", "v")
            message = subscription.get_message(timeout=5)
        self.assertEqual(b"set", message["data"])

    def test_scripts(self) -> None:
        """EVALSHA by way of a registered script."""
        script = self.cache.client.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
        self.assertEqual(5, script(keys=["n"], args=[5]))

    def test_a_missing_driver_names_the_extra(self) -> None:
        """What to install is in the message."""
        with (
            unittest.mock.patch.dict(sys.modules, {"redis": None}),
            self.assertRaisesRegex(MissingDriverError, r"redis.*'unittest-orchestrator\[redis\]'"),
        ):
            _ = self.cache.client

    def test_the_client_is_closed_after_the_test(self) -> None:
        """Its connections end with the test's state."""
        with type(self).cache.isolated("test_one-1") as one:
            one.client.ping()
            one.in_database(1).client.ping()
        with type(self).cache.isolated("test_two-2") as two:
            names = [client["cmd"] for client in two.client.client_list()]
        self.assertEqual(1, sum(name == "client|list" for name in names))
        self.assertNotIn("ping", names)


class AsyncTest(ServicesMixin, unittest.IsolatedAsyncioTestCase):
    """asyncio clients."""

    cache = Redis(isolation="prefix")

    async def test_it_is_closed_in_its_loop(self) -> None:
        """Nobody has to close it; no warning is raised about it."""
        self.assertTrue(await self.cache.async_client.set(self.cache.key("k"), "v"))
        self.assertEqual(b"v", await self.cache.async_client.get(self.cache.key("k")))


class PasswordTest(LeakCheckedTestCase):
    """Passwords are random, or whatever the user wants."""

    def test_an_awkward_password_works_everywhere(self) -> None:
        """Quotes, spaces, %, unicode and shell characters are nothing special."""

        class Awkward(ServicesMixin, unittest.TestCase):
            cache = Redis(password=AWKWARD)

            def test_it(self) -> None:
                self.assertTrue(self.cache.client.ping())
                with redis.Redis.from_url(self.cache.url) as client:
                    self.assertTrue(client.ping())
                self.assertIn(
                    "PONG",
                    self.cache.exec(["redis-cli", "-u", self.cache.internal_url, "ping"]).output,
                )

        self.assert_passes(Awkward)

    def test_a_bad_setting_is_told_with_the_servers_words(self) -> None:
        """The class fails, and nothing is left."""

        class Broken(ServicesMixin, unittest.TestCase):
            cache = Redis(settings={"maxmemory-sample": "5"})

            def test_it(self) -> None: ...

        self.assert_error(Broken, "cache exited", "Bad directive", "maxmemory-sample")

    def test_bad_rules_of_a_user_are_told(self) -> None:
        """With the server's words."""

        class Broken(ServicesMixin, unittest.TestCase):
            cache = Redis(users={"app": "+nosuchcommand"})

            def test_it(self) -> None: ...

        self.assert_error(Broken, "cache exited", "nosuchcommand")
