"""Postgres: migrations of every kind, run once for the class."""

import contextlib
import io
import logging
import tempfile
import textwrap
import unittest
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import inspect

from orchestrator import Postgres, ServicesMixin
from orchestrator.images.failures import has_failures
from orchestrator.settings import Settings
from tests.support.classes import LeakCheckedTestCase
from tests.support.processes import ProcessTestCase

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
BY_CONNECTION = """
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
_FAILS = """
    import unittest
    from alembic.config import Config
    from orchestrator import Postgres, ServicesMixin

    def migrate(engine):
        print("migrating", flush=True)
        raise ValueError(f"not at {engine.url.render_as_string(hide_password=False)}")

    class FunctionTest(ServicesMixin, unittest.TestCase):
        db = Postgres(migrate=migrate, password="hush hush")

        def test_it(self): ...

    class SameTest(FunctionTest): ...

    config = Config()
    config.set_main_option("script_location", "script")

    class AlembicTest(FunctionTest):
        db = Postgres(migrate=config)
"""


class FailedTest(ProcessTestCase):
    """The classes of a process, and the processes of a run."""

    def test_a_migration_that_failed_in_a_class_is_not_run_in_the_next(self) -> None:
        """That fails with what the first was told, also where the process is no part of a run."""
        self.write("test_books.py", _FAILS)
        del self.environ["ORCHESTRATOR_RUN"]
        names = ("test_books.FunctionTest", "test_books.SameTest")
        _, output = self.run_python("-m", "unittest", *names)
        self.assertEqual(1, output.count("migrating"), output)
        self.assertRegex(output, r"a class before, so it is not run again: .*not at \S*//test:\*")

    def test_a_migration_that_failed_in_one_is_not_run_in_another(self) -> None:
        """A function, and an Alembic config; no frames but the user's, no password."""
        self.write("test_books.py", _FAILS)
        (self.folder / "script/versions").mkdir(parents=True)
        self.write("script/env.py", BY_CONNECTION)
        self.write("script/versions/1_books.py", _REVISION.replace('"id", I', '"id", NoSuch, I'))
        # As a runner's parent does, this process holds what its run knows.
        self.assertFalse(has_failures(settings=Settings(run=self.run_id)))
        for kind, told in (("Function", r"not at \S*//test:\*\*\*@"), ("Alembic", "NoSuch")):
            argv = ("-m", "unittest", f"test_books.{kind}Test")
            _, first = self.run_python(*argv)
            self.assertRegex(first, f"db: the migration failed: .*{told}")
            self.assertIn(", in upgrade" if kind == "Alembic" else ", in migrate", first)
            self.assertNotRegex(first, r'File ".*/(orchestrator|alembic|sqlalchemy)/\w')
            _, again = self.run_python(*argv)
            self.assertRegex(again, f"a class before, so it is not run again: .*{told}")
            self.assertNotIn("migrating", again)
            self.assertNotIn("hush", first.partition("The above exception")[2] + again)


class AlembicTest(LeakCheckedTestCase):
    """An Alembic config is upgraded to head in the class's database."""

    def config(self, env: str, **attributes: object) -> Config:
        """A config whose env.py is this."""
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "versions").mkdir()
        (folder / "versions" / "1_books.py").write_text(textwrap.dedent(_REVISION))
        (folder / "env.py").write_text(textwrap.dedent(env))
        config = Config(attributes=attributes)
        config.set_main_option("script_location", str(folder))
        config.set_main_option("sqlalchemy.url", "postgresql://production/100%%")
        return config

    def initialised(self) -> Config:
        """A config as `alembic init` writes it, whose env.py configures logging, too."""
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        with contextlib.redirect_stdout(io.StringIO()):
            command.init(Config(folder / "alembic.ini"), str(folder / "migrations"))
        (folder / "migrations/versions/1_books.py").write_text(textwrap.dedent(_REVISION))
        return Config(folder / "alembic.ini")

    def test_each_way_to_find_the_database_works(self) -> None:
        """URL, connection, asyncio, `alembic init`; loggers and handlers are as they were."""
        by_url = _BY_URL.replace("URL", 'context.config.get_main_option("sqlalchemy.url")')
        first, *others = configs = [
            self.config(env) for env in (by_url, BY_CONNECTION, _BY_ASYNC_ENGINE)
        ]
        others.append(self.initialised())
        file = self.enterContext(tempfile.NamedTemporaryFile("r"))
        handler = logging.FileHandler(file.name, mode="w")
        self.addCleanup(handler.close)
        logger = logging.getLogger("tests.orders")
        logger.setLevel(logging.WARNING)  # a Celery worker of another test has changed the root's
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)
        loggers = [logging.root, logger]
        before = [(it.level, it.disabled, it.handlers[:]) for it in loggers]

        class Migrated(ServicesMixin, unittest.TestCase):
            db = Postgres(
                migrate=first,
                databases={str(number): config for number, config in enumerate(others)},
                password="100% p@ss",
            )

            def test_it(self) -> None:
                for handle in (self.db, *(self.db.in_database(it) for it in "012")):
                    with self.subTest(handle.database):
                        self.assertIn("books", inspect(handle.engine).get_table_names())
                logger.warning("heard")

        self.assert_passes(Migrated)
        for config in configs:
            url = config.get_main_option("sqlalchemy.url")
            self.assertEqual("postgresql://production/100%", url)
            self.assertNotIn("connection", config.attributes)
        self.assertEqual(before, [(it.level, it.disabled, it.handlers) for it in loggers])
        self.assertEqual("heard\n", file.read())
        self.assertEqual(logging.NOTSET, logging.getLogger("alembic").level)

    def test_an_env_that_goes_elsewhere_is_told(self) -> None:
        """A URL written into env.py would have migrated another database, silently."""
        db = Postgres(migrate=self.config(_BY_URL.replace("URL", '"sqlite://"')))
        self.assert_cannot_start("made nothing in 'test'", "sqlalchemy.url", db=db)
