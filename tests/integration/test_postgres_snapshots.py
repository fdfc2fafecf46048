"""Postgres: a server that was prepared once is where the next one starts from."""

import os
import subprocess
import sys
import tempfile
import textwrap
import unittest
import uuid
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import psycopg
import sqlalchemy
from sqlalchemy import Column, Integer, MetaData, Table, text

from orchestrator import Postgres, Services
from orchestrator.engine import connect, find_endpoint
from orchestrator.images import find_lock
from orchestrator.sessions import Snapshot, limit_snapshots, list_snapshots, remove_snapshots
from orchestrator.settings import Settings
from tests.integration.test_postgres_migrations import BY_CONNECTION

_REVISION = """
    from pathlib import Path
    from alembic import op
    revision, down_revision, branch_labels, depends_on = "1", None, None, None
    def upgrade():
        with open({runs!r}, "a") as file:
            file.write("run\\n")
        op.execute("create table books (id int)")
        op.execute("grant select on books to clerk")
"""
_OTHER_PROCESS = """
    import sys
    from alembic.config import Config
    from orchestrator import Postgres, Services
    config = Config()
    config.set_main_option("script_location", sys.argv[1])
    class Shop(Services):
        db = Postgres(migrate=config, roles=["clerk"], database=sys.argv[2])
    with Shop() as shop, shop.isolated("one") as clean:
        clean.db.as_role("clerk").connect().execute("select * from books")
        print(clean.db.running.snapshot is not None, clean.db.password)
"""


class SnapshotTest(unittest.TestCase):
    """Each test has a database of its own name, and so snapshots of its own."""

    def setUp(self) -> None:
        """Snapshots are on, and those of the test go with it."""
        super().setUp()
        self.name = f"db_{uuid.uuid4().hex[:8]}"
        cache = self.enterContext(tempfile.TemporaryDirectory())
        asked = {"ORCHESTRATOR_SNAPSHOTS": "2g", "XDG_CACHE_HOME": cache}
        self.enterContext(mock.patch.dict(os.environ, asked))
        self.engine = connect(Settings.from_environment(), endpoint=find_endpoint())
        self.addCleanup(self.engine.close)
        self.addCleanup(self.clear)

    def made(self) -> Sequence[Snapshot]:
        """The snapshots that came since the test began, for this test."""
        return [it for it in list_snapshots(self.engine) if self._testMethodName in it.test_class]

    def clear(self) -> None:
        """Remove what the test has made."""
        remove_snapshots(self.engine, self.made())

    def start(self, db: Postgres, *statements: str) -> tuple[bool, list[object], str]:
        """Whether it started from a snapshot, what the statements told, and its password."""
        kind = type(self._testMethodName, (Services,), {"db": db})
        with kind() as it, it.isolated("one") as clean:
            connection = clean.db.connect(autocommit=True)
            told = [connection.execute(one).fetchall() for one in statements]
            return clean.db.running.snapshot is not None, told, clean.db.password

    def plain(self) -> Postgres:
        """A server of this test's."""
        return Postgres(database=self.name)

    def test_a_migration_runs_once_over_processes(self) -> None:
        """Of Alembic, with a role; other files are another migration; every password is new."""
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "versions").mkdir()
        runs = folder.parent / f"{self.name}.runs"
        self.addCleanup(runs.unlink)
        revision = folder / "versions" / "1_books.py"
        revision.write_text(textwrap.dedent(_REVISION.format(runs=str(runs))))
        (folder / "env.py").write_text(textwrap.dedent(BY_CONNECTION))
        script = textwrap.dedent(_OTHER_PROCESS).replace("Shop", self._testMethodName)
        command = [sys.executable, "-c", script, str(folder), self.name]

        def run() -> tuple[str, str]:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            self.assertEqual(0, done.returncode, done.stderr)
            restored, password = done.stdout.split()
            return restored, password

        first, second = run(), run()
        self.assertEqual(("False", "True"), (first[0], second[0]))
        self.assertNotEqual(first[1], second[1])
        self.assertEqual("run\n", runs.read_text())
        revision.write_text(f"{revision.read_text()}\n# changed\n")
        self.assertEqual("False", run()[0])
        self.assertEqual("run\nrun\n", runs.read_text())

    def test_what_was_prepared_is_there(self) -> None:
        """Init files, tables of a MetaData, databases, extensions; settings and tests as ever."""
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "a.sql").write_text("create table by_init as select 7 as id")
        (folder / "b.sh").write_text('psql -c "create table by_script as select 8 as id"')
        metadata = MetaData()
        Table("by_metadata", metadata, Column("id", Integer, primary_key=True))

        def declared(password: str | None = None) -> Postgres:
            return Postgres(
                database=self.name,
                username="chief",
                password=password,
                init=[folder / "a.sql", folder / "b.sh"],
                migrate=metadata,
                databases={"other": metadata},
                extensions=["pgcrypto"],
                env={"POSTGRES_INITDB_ARGS": "--encoding=SQL_ASCII --locale=C"},
            )

        asked = (
            "select id from by_init",
            "select id from by_script",
            "select count(*) from by_metadata",
            "show server_encoding",
            "select count(*) from pg_extension where extname = 'pgcrypto'",
            "insert into by_metadata values (1) returning id",
        )
        told = [[(7,)], [(8,)], [(0,)], [("SQL_ASCII",)], [(1,)], [(1,)]]
        for restored in (False, True):
            self.assertEqual((restored, told), self.start(declared(), *asked)[:2])
        Table("one_more", metadata, Column("id", Integer))
        self.assertEqual(False, self.start(declared(), "select from one_more")[0])
        self.assertEqual(False, self.start(declared("chosen by me"))[0])

    def test_a_server_from_a_snapshot_is_as_any(self) -> None:
        """Only its own password; killed, it has what was committed; two makers at once make one."""
        pair = {"db": self.plain(), "same": self.plain()}
        kind = type(self._testMethodName, (Services,), pair)
        with kind() as it, it.isolated("one") as clean:
            old = clean.db.password
            for db in (clean.db, clean.same):
                db.connect().execute("select 1")
        self.assertEqual(1, len(self.made()))
        with kind() as it:
            db = it.db
            self.assertIsNotNone(db.running.snapshot)
            with it.isolated("one") as clean:
                clean.same.connect().execute("select 1")
                clean.db.connect(autocommit=True).execute("create table public.kept (id int)")
                with self.assertRaisesRegex(psycopg.OperationalError, "password authentication"):
                    psycopg.connect(clean.db.dsn.replace(clean.db.password, old))
                done = db.exec(["sh", "-c", "echo x > /orchestrator/snapshot/PG_VERSION"])
                self.assertIn("Read-only", done.output)
                self.assertEqual("root\n", db.exec(["whoami"]).output)
                clean.db.restart()
                clean.db.connect().execute("select from public.kept")
        self.assertEqual(1, len(self.made()))

    def test_a_function_is_known_by_its_files(self) -> None:
        """By those that are named, in any process; or by itself, in this one."""
        file = Path(self.enterContext(tempfile.TemporaryDirectory())) / "schema.sql"
        file.write_text("create table a (id int)")
        runs: list[int] = []

        def migrate(engine: sqlalchemy.Engine) -> None:
            runs.append(1)
            with engine.begin() as connection:
                connection.execute(text(file.read_text()))

        def of_files() -> Postgres:
            return Postgres(database=self.name, migrate=migrate, fingerprint=[file])

        found = [self.start(of_files(), "select from a")[0] for _ in range(2)]
        self.assertEqual(([False, True], 1), (found, len(runs)))
        kept = len(self.made())
        by_itself = [
            self.start(Postgres(database=self.name, migrate=migrate), "select from a")[0]
            for _ in range(3)
        ]
        self.assertEqual([False, False, True], by_itself)  # a quick one may never be met again
        self.assertEqual(kept, len(self.made()))

    def test_data_that_cannot_be_kept_are_not(self) -> None:
        """Where a snapshot would have less, or an old password."""
        for name, script in {
            "unlogged": "psql -c 'create unlogged table a (id int)'",
            "elsewhere": "echo x > /tmp/note",
            "tablespace": "mkdir /run/postgresql/x; psql -c "
            "\"create tablespace x location '/run/postgresql/x'\"",
            "password": "psql -c \"create table a as select '$POSTGRES_PASSWORD'::text\"",
        }.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "init.sh"
                file.write_text(script)
                self.start(Postgres(database=self.name, init=[file]))
                self.assertEqual([], self.made())

    def test_a_damaged_snapshot_is_made_again(self) -> None:
        """The class starts as ever, the next one from the new snapshot; off is off meanwhile."""
        self.start(self.plain())
        [before] = self.made()
        with mock.patch.dict(os.environ, ORCHESTRATOR_SNAPSHOTS="0"):
            self.assertEqual(False, self.start(self.plain())[0])
        self.damage(before)
        with self.assertLogs("orchestrator", "WARNING") as logged:
            self.assertEqual(False, self.start(self.plain())[0])
        self.assertIn("the snapshot is damaged", logged.output[0])
        [after] = self.made()
        self.assertNotEqual(before.volume, after.volume)
        self.assertEqual(True, self.start(self.plain())[0])

    def damage(self, snapshot: Snapshot) -> None:
        """Cut a file of a snapshot."""
        image = find_lock(Settings.from_environment()).entries["postgres"].reference.pinned
        inside = ["--entrypoint", "sh", image, "-c", ": > /it/data.tar"]
        argv = ["docker", "run", "--rm", "--volume", f"{snapshot.volume}:/it", *inside]
        subprocess.run(argv, check=True)

    def test_the_least_recently_used_go_first(self) -> None:
        """When all are larger than the limit."""
        for name in ("a", "b"):
            self.start(Postgres(database=f"{self.name}{name}"))
        self.start(Postgres(database=f"{self.name}a"))
        self.assertEqual(2, len(self.made()))
        newest = self.made()[0]
        with mock.patch("orchestrator.sessions.snapshots.list_snapshots", return_value=self.made()):
            limit_snapshots(self.engine, newest.size + 1)
        self.assertEqual([newest.key], [it.key for it in self.made()])
