"""The database of a test run: one server, in which Django makes its own test databases."""

import contextlib

from django.db import connections
from django.test.runner import DiscoverRunner

from orchestrator import Postgres


@contextlib.contextmanager
def database():
    """Start it, and tell Django where it is."""
    with Postgres() as db:
        connections.settings["default"].update(
            HOST=db.host, PORT=db.port, USER=db.username, PASSWORD=db.password, NAME=db.database
        )
        yield


class Runner(DiscoverRunner):
    """For `manage.py test`, with or without `--parallel`."""

    def setup_databases(self, **kwargs):
        """The server first."""
        self._servers = contextlib.ExitStack()
        self._servers.enter_context(database())
        return super().setup_databases(**kwargs)

    def teardown_databases(self, old_config, **kwargs):
        """The server last."""
        super().teardown_databases(old_config, **kwargs)
        self._servers.close()
