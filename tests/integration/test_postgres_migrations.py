"""Postgres: migrations of every kind, run once for the class."""

from __future__ import annotations

import tempfile
import textwrap
import threading
import unittest
from pathlib import Path
from typing import ClassVar

from alembic.config import Config
from sqlalchemy import Column, Integer, MetaData, Table, inspect

from orchestrator import Postgres, ServicesMixin
from tests.support.classes import LeakCheckedTestCase

METADATA = MetaData()
Table("orders", METADATA, Column("id", Integer, primary_key=True))

_REVISION = """
    from alembic import op
    from sqlalchemy import Column, Integer
    revision, down_revision, branch_labels, depends_on = "1", None, None, None
    def upgrade():
        op.create_table("books", Column("id", Integer))
"""
_BY_URL = """
    from alembic import context
    from sqlalchemy import NullPool, create_engine
    engine = create_engine(URL, poolclass=NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
"""
_BY_CONNECTION = """
    from alembic import context
    context.configure(connection=context.config.attributes["connection"])
    with context.begin_transaction():
        context.run_migrations()
"""
_BY_ASYNC_ENGINE = """
    import asyncio
    from sqlalchemy import NullPool
    from alembic import context
    from sqlalchemy.ext.asyncio import async_engine_from_config
    def migrate(connection):
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
    async def run():
        section = context.config.get_section(context.config.config_ini_section)
        async with async_engine_from_config(section, poolclass=NullPool).connect() as connection:
            await connection.run_sync(migrate)
    asyncio.run(run())
"""
_PAIR = """
    from alembic import context
    attributes = context.config.attributes
    attributes["meet"]()
    attributes["connection"].exec_driver_sql("create table made_by_alembic (id int)")
"""


class AlembicTest(LeakCheckedTestCase):
    """An Alembic config is upgraded to head in the class's database."""

    def setUp(self) -> None:
        """Make a folder of migrations."""
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "versions").mkdir()
        (self.folder / "versions" / "1_books.py").write_text(textwrap.dedent(_REVISION))

    def config(self, env: str) -> Config:
        """A config whose env.py is this."""
        (self.folder / "env.py").write_text(textwrap.dedent(env))
        config = Config()
        config.set_main_option("script_location", str(self.folder))
        config.set_main_option("sqlalchemy.url", "postgresql://production/100%%")
        return config

    def test_each_way_to_find_the_database_works(self) -> None:
        """By URL, by the connection of Alembic's cookbook, and by asyncio."""
        by_url = _BY_URL.replace("URL", 'context.config.get_main_option("sqlalchemy.url")')
        for env in (by_url, _BY_CONNECTION, _BY_ASYNC_ENGINE):
            config = self.config(env)

            class Migrated(ServicesMixin, unittest.TestCase):
                db = Postgres(migrate=config, password="100% p@ss")

                def test_it(self) -> None:
                    self.assertIn("books", inspect(self.db.engine).get_table_names())

            with self.subTest(env):
                self.assert_passes(Migrated)
                self.assertEqual(
                    "postgresql://production/100%", config.get_main_option("sqlalchemy.url")
                )
                self.assertNotIn("connection", config.attributes)

    def test_an_env_that_goes_elsewhere_is_told(self) -> None:
        """A URL written into env.py would have migrated another database, silently."""
        config = self.config(_BY_URL.replace("URL", '"sqlite://"'))

        class Elsewhere(ServicesMixin, unittest.TestCase):
            db = Postgres(migrate=config)

            def test_it(self) -> None: ...

        self.assert_error(Elsewhere, "made nothing in 'test'", "sqlalchemy.url")


class MetadataTest(ServicesMixin, unittest.TestCase):
    """A SQLAlchemy MetaData is created in the class's database."""

    runs: ClassVar[list[str]] = []
    db = Postgres(migrate=METADATA)

    def test_its_tables_are_there(self) -> None:
        """And the default isolation is a clone of them."""
        self.assertEqual(["orders"], inspect(self.db.engine).get_table_names())
        self.assertTrue(self.db._clones)


class AlembicPairTest(LeakCheckedTestCase):
    """Alembic hands env.py its configuration through globals of a module."""

    def test_one_migration_runs_at_a_time(self) -> None:
        """Else one service's env.py loses its configuration, or gets another's."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        Path(folder.name, "env.py").write_text(textwrap.dedent(_PAIR))
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
