"""Migrations of services that start side by side."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import unittest
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy
from alembic.config import Config

from orchestrator.services import postgres_migrations


class AlembicTest(unittest.TestCase):
    """Alembic hands env.py its configuration through globals of a module."""

    def test_one_migration_runs_at_a_time(self) -> None:
        """Else one service's env.py loses its configuration, or gets another's."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        env = "from alembic import context; context.config.attributes['meet']()"
        Path(folder.name, "env.py").write_text(env, encoding="utf-8")
        both = threading.Barrier(2)
        came: list[int] = []
        met: list[int] = []

        def meet() -> None:
            came.append(1)
            try:
                met.append(both.wait(timeout=0.5))
            except threading.BrokenBarrierError:
                return

        def migrate() -> None:
            config = Config(attributes={"meet": meet})
            config.set_main_option("script_location", folder.name)
            url = sqlalchemy.URL.create("sqlite")
            engine = sqlalchemy.create_engine(url)
            service: Any = SimpleNamespace(
                alias="db", sqlalchemy_url=url, engine=engine, masked=str
            )
            with contextlib.closing(SimpleNamespace(close=engine.dispose)):
                postgres_migrations.run(config, service=service)

        with futures.ThreadPoolExecutor(2) as pool:
            for running in [pool.submit(migrate) for _ in range(2)]:
                running.result()
        self.assertEqual((2, []), (len(came), met))
