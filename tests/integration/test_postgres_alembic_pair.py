"""Migrations of two services of one class, which start side by side."""

from __future__ import annotations

import tempfile
import threading
import unittest
from pathlib import Path

from alembic.config import Config

from orchestrator import Postgres, ServicesMixin
from tests.support.classes import LeakCheckedTestCase

ENV = """
from alembic import context
attributes = context.config.attributes
attributes["meet"]()
attributes["connection"].exec_driver_sql("create table made_by_alembic (id int)")
"""


class AlembicPairTest(LeakCheckedTestCase):
    """Alembic hands env.py its configuration through globals of a module."""

    def test_one_migration_runs_at_a_time(self) -> None:
        """Else one service's env.py loses its configuration, or gets another's."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        Path(folder.name, "env.py").write_text(ENV, encoding="utf-8")
        both = threading.Barrier(2)
        came: list[int] = []
        met: list[int] = []

        def meet() -> None:
            came.append(1)
            try:
                met.append(both.wait(timeout=0.5))
            except threading.BrokenBarrierError:
                return

        def config() -> Config:
            made = Config(attributes={"meet": meet})
            made.set_main_option("script_location", folder.name)
            return made

        class Pair(ServicesMixin, unittest.TestCase):
            one = Postgres(migrate=config())
            two = Postgres(migrate=config())

            def test_both_are_migrated(self) -> None:
                for service in (self.one, self.two):
                    with service.connect() as connection:
                        connection.execute("select id from made_by_alembic")

        self.assert_passes(Pair)
        self.assertEqual((2, []), (len(came), met))
