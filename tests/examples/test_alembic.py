"""The same migrations as production, through Alembic."""

import unittest
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from orchestrator import Postgres, ServicesMixin

# What production deploys with; only the address of the database is another one here.
MIGRATIONS = Config(Path(__file__).with_name("migrations") / "alembic.ini")


class MigratedDatabaseTest(ServicesMixin, unittest.TestCase):
    """``alembic upgrade head`` runs once; every test gets a copy of the result."""

    db = Postgres(migrate=MIGRATIONS)

    def test_schema_is_that_of_the_last_revision(self) -> None:
        """All revisions ran, in order."""
        with self.db.engine.connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
        self.assertEqual("b7d2e9c4a610", revision)
        columns = {column["name"] for column in inspect(self.db.engine).get_columns("books")}
        self.assertEqual({"id", "title", "isbn"}, columns)

    def test_data_of_a_migration_is_there(self) -> None:
        """Rows that a migration inserted are in every test's copy."""
        with self.db.engine.begin() as connection:
            titles = connection.execute(text("select title from books")).scalars().all()
            self.assertEqual(["A Room of One's Own"], titles)
            connection.execute(text("delete from books"))


class MigrationTest(ServicesMixin, unittest.TestCase):
    """Migrations themselves under test: every test begins with an empty database."""

    db = Postgres(isolation="database")

    def test_migrations_go_up_and_down_again(self) -> None:
        """A downgrade to base leaves no table of the application behind."""
        config = Config(Path(__file__).with_name("migrations") / "alembic.ini")
        url = self.db.sqlalchemy_url.render_as_string(hide_password=False)
        config.set_main_option("sqlalchemy.url", url)

        command.upgrade(config, "head")
        self.assertIn("books", inspect(self.db.engine).get_table_names())

        command.downgrade(config, "base")
        self.assertNotIn("books", inspect(self.db.engine).get_table_names())
