"""Credentials: random, and told to nobody who does not ask the daemon itself."""

from __future__ import annotations

import json
import subprocess
import unittest

import psycopg
import redis

from orchestrator import Postgres, Redis, ServicesMixin
from tests.support.classes import LeakCheckedTestCase


def docker(*argv: str) -> str:
    """What a docker command prints."""
    done = subprocess.run(["docker", *argv], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


class SecretsTest(LeakCheckedTestCase):
    """A password is drawn for each server, and shows up in no list, label or log."""

    def test_every_server_has_a_random_password(self) -> None:
        """Two servers, and two runs of one class, never share a password."""
        seen: list[str | None] = []

        class Uses(ServicesMixin, unittest.TestCase):
            first = Redis()
            second = Redis()

            def test_it(self) -> None:
                seen.extend([self.first.password, self.second.password])

        self.assert_passes(Uses)
        self.assert_passes(Uses)
        self.assertEqual(4, len(set(seen)))
        self.assertTrue(all(password and len(password) >= 20 for password in seen))


class TwoServersTest(ServicesMixin, unittest.TestCase):
    """Two servers that ask for a password."""

    db = Postgres()
    cache = Redis()

    def test_no_password_in_process_lists_labels_and_logs(self) -> None:
        """Neither the host's process list nor what the container shows has it."""
        with self.db.connect() as connection:
            connection.execute("select 1")
        self.cache.client.ping()
        host = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True)
        for service in (self.db, self.cache):
            config = json.loads(docker("inspect", service.container_id))[0]["Config"]
            shown = [
                host.stdout,
                docker("top", service.container_id),
                json.dumps([config["Labels"], config["Cmd"], config["Entrypoint"]]),
                docker("logs", service.container_id),
                service.logs(),
                str(service.info()),
                repr(service),
            ]
            password = service.password
            assert password is not None
            for text in shown:
                self.assertNotIn(password, text)

    def test_a_wrong_password_is_refused(self) -> None:
        """The servers do ask."""
        stranger = redis.Redis(host=self.cache.host, port=self.cache.port, password="x")
        self.addCleanup(stranger.close)
        with self.assertRaises(redis.AuthenticationError):
            stranger.ping()
        with self.assertRaisesRegex(psycopg.OperationalError, "password"):
            self.db.connect(password="x")
