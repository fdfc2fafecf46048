"""Postgres: what goes wrong is told, and leaves nothing behind."""

from __future__ import annotations

import gzip
import tempfile
import unittest
from pathlib import Path

from sqlalchemy import text

from orchestrator import Postgres, ServicesMixin
from orchestrator.errors import ServiceError
from tests.support.classes import LeakCheckedTestCase

AWKWARD = """it's "100%" of p@ss: /\\w?ö€rd#&$HOME `x` ;--"""


class BrokenTest(LeakCheckedTestCase):
    """Each a class that cannot start."""

    def setUp(self) -> None:
        """Make a folder for init files."""
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_a_broken_init_file_is_told_with_file_line_and_error(self) -> None:
        """The message has what psql said, and where."""
        (self.folder / "good.sql").write_text("create table a(id int);\n")
        (self.folder / "bad.sql").write_text("create table b(id int);\n\nselect nonsense;\n")

        class Broken(ServicesMixin, unittest.TestCase):
            db = Postgres(init=[self.folder / "good.sql", self.folder / "bad.sql"])

            def test_it(self) -> None: ...

        self.assert_error(
            Broken, "db", "init file", "bad.sql", "line 3", 'column "nonsense" does not exist'
        )

    def test_a_broken_compressed_init_file_is_told_the_same_way(self) -> None:
        """The server reads it from a pipe and cannot name it; the message does."""
        (self.folder / "bad.sql.gz").write_bytes(gzip.compress(b"select 1;\nselect nonsense;\n"))

        class Broken(ServicesMixin, unittest.TestCase):
            db = Postgres(init=[self.folder / "bad.sql.gz"])

            def test_it(self) -> None: ...

        self.assert_error(
            Broken, "init file", "bad.sql.gz", "line 2", 'column "nonsense" does not exist'
        )

    def test_a_broken_init_script_is_told_with_its_output(self) -> None:
        """A shell script's last words and the exit code are in the message."""
        (self.folder / "bad.sh").write_text("#!/bin/bash\necho no such luck >&2\nexit 3\n")

        class Broken(ServicesMixin, unittest.TestCase):
            db = Postgres(init=[self.folder / "bad.sh"])

            def test_it(self) -> None: ...

        self.assert_error(Broken, "init file", "bad.sh", "no such luck", "exit code 3")

    def test_an_unknown_setting_is_told_with_the_servers_words(self) -> None:
        """A setting that the server does not know ends it, with its reason in the message."""

        class Broken(ServicesMixin, unittest.TestCase):
            db = Postgres(settings={"fsnyc": "off"})

            def test_it(self) -> None: ...

        self.assert_error(Broken, 'unrecognized configuration parameter "fsnyc"')

    def test_a_migration_that_raises_is_told(self) -> None:
        """The error names the service and what the migration raised, and keeps it as the cause."""

        def migrate(engine: object) -> None:
            raise ValueError(f"no {type(engine).__name__} for you")

        class Broken(ServicesMixin, unittest.TestCase):
            db = Postgres(migrate=migrate)

            def test_it(self) -> None: ...

        self.assert_error(
            Broken, "db", "migration", "ValueError: no Engine for you", "ServiceError"
        )

    def test_a_migration_that_fails_on_the_server_shows_no_password(self) -> None:
        """Not even when it prints the URL."""

        def migrate(engine: object) -> None:
            raise ValueError(f"cannot do it at {engine.url.render_as_string(hide_password=False)}")  # type: ignore[attr-defined]

        class Broken(ServicesMixin, unittest.TestCase):
            db = Postgres(migrate=migrate, password="hush hush")

            def test_it(self) -> None: ...

        text = self.assert_error(Broken, "postgresql+psycopg://test:***@")
        self.assertNotIn("hush", text.partition("The above exception")[2])

    def test_a_missing_init_file_is_told_before_anything_starts(self) -> None:
        """The message has the path that was looked for."""

        class Broken(ServicesMixin, unittest.TestCase):
            db = Postgres(init=[self.folder / "absent.sql"])

            def test_it(self) -> None: ...

        self.assert_error(Broken, "DeclarationError", "init", str(self.folder / "absent.sql"))


class PasswordTest(LeakCheckedTestCase):
    """Passwords are random, or whatever the user wants; and they stay secret."""

    def test_an_awkward_password_works_everywhere(self) -> None:
        """Quotes, spaces, %, unicode and shell characters are nothing special."""

        class Awkward(ServicesMixin, unittest.TestCase):
            db = Postgres(password=AWKWARD, username="us er", database="my db's")

            def test_it(self) -> None:
                with self.db.engine.connect() as connection:
                    self.assertEqual("us er", connection.scalar(text("select current_user")))
                with self.db.connect() as connection:
                    self.assertEqual(
                        ("my db's",), connection.execute("select current_database()").fetchone()
                    )
                result = self.db.exec(["psql", "-tc", "select 41 + 1", self.db.internal_url])
                self.assertIn("42", result.output)

        self.assert_passes(Awkward)

    def test_failure_notes_and_logs_mask_the_password(self) -> None:
        """What the server logs, and what info says, is shown without it."""

        class Fails(ServicesMixin, unittest.TestCase):
            db = Postgres(password=AWKWARD)

            def test_it(self) -> None:
                with self.db.connect(autocommit=True) as connection:
                    connection.execute(
                        "do $$ begin raise warning 'it says %', $q$" + AWKWARD + "$q$; end $$"
                    )
                self.fail("on purpose")

        self.assertNotIn(AWKWARD, self.assert_error(Fails, "it says ***", "PostgreSQL 1"))


class RestartTest(ServicesMixin, LeakCheckedTestCase):
    """A server that was restarted goes on isolating tests."""

    db = Postgres()

    def _check_nothing_is_left(self) -> None:
        """The class's server runs until its end."""

    def test_the_next_test_has_clean_state_after_a_restart(self) -> None:
        """The connection that isolates tests comes back by itself."""
        with type(self).db.isolated("one-1") as one:
            with one.connect() as connection:
                connection.execute("create table t(id int)")
            one.restart()
            with one.connect() as connection:
                self.assertEqual((0,), connection.execute("select count(*) from t").fetchone())
        with type(self).db.isolated("two-2") as two, two.connect() as connection:
            self.assertEqual((None,), connection.execute("select to_regclass('t')").fetchone())

    def test_a_killed_server_is_told_as_such(self) -> None:
        """A test that leaves the server dead gets an error that says so."""
        handle = type(self).db
        with self.assertRaises(ServiceError), handle.isolated("one-1") as one:
            one.kill()
        handle.restart()
