"""Credentials: random, and told to nobody who does not ask the daemon itself."""

from __future__ import annotations

import json
import subprocess
import unittest

from orchestrator import Postgres, Redis, ServicesMixin


def output(*argv: str) -> str:
    """What a command prints."""
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


class SecretsTest(ServicesMixin, unittest.TestCase):
    """A password is drawn for each server, and shows up in no list, label or log."""

    db = Postgres()
    cache = Redis()
    second = Redis()

    def test_every_server_has_a_long_password_of_its_own(self) -> None:
        """Declared alike, they differ."""
        passwords = {service.password or "" for service in (self.db, self.cache, self.second)}
        self.assertEqual(3, len(passwords))
        self.assertGreaterEqual(min(map(len, passwords)), 20)

    def test_no_password_in_process_lists_labels_and_logs(self) -> None:
        """Neither the host's process list nor what the container shows has it."""
        with self.db.connect() as connection:
            connection.execute("select 1")
        self.cache.client.ping()
        for service in (self.db, self.cache):
            container = service.container_id
            config = json.loads(output("docker", "inspect", container))[0]["Config"]
            shown = [
                output("ps", "axww"),
                output("docker", "top", container),
                json.dumps([config["Labels"], config["Cmd"], config["Entrypoint"]]),
                output("docker", "logs", container),
                service.logs(),
                str(service.info()),
                repr(service),
            ]
            for text in shown:
                self.assertNotIn(str(service.password), text)
