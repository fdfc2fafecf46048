"""Postgres: what a test leaves behind does not disturb the next one."""

from __future__ import annotations

import contextlib
import unittest
from typing import TYPE_CHECKING

import psycopg

from orchestrator import Postgres, ServicesMixin

if TYPE_CHECKING:
    from collections.abc import Iterator


class Leftovers:
    """Each test leaves something in one state, and looks from the next; run per isolation."""

    db: Postgres

    @contextlib.contextmanager
    def leaving(self) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        """The state of a test that opens a connection by itself and does not close it."""
        with type(self).db.isolated("test_leaves-1") as handle:
            connection = psycopg.connect(handle.dsn, autocommit=True)
            self.addCleanup(connection.close)  # type: ignore[attr-defined]
            yield connection

    def asked(self, query: str) -> object:
        """The answer that the next test gets."""
        with (
            type(self).db.isolated("test_next-2") as handle,
            psycopg.connect(handle.dsn, autocommit=True) as connection,
        ):
            row = connection.execute(query).fetchone()
            assert row is not None
            return row[0]

    def assert_next(self, expected: object, query: str) -> None:
        """Ask in the next test."""
        self.assertEqual(expected, self.asked(query))  # type: ignore[attr-defined]

    def test_an_open_transaction_with_a_lock(self) -> None:
        """A table lock that the test still held is gone."""
        with type(self).db.connect(autocommit=True) as connection:
            connection.execute("create table if not exists locked(id int)")
        with self.leaving() as left:
            left.execute("begin")
            left.execute("create table mine(id int)")
            left.execute("lock table pg_catalog.pg_class in exclusive mode")
        self.assert_next(1, "select 1 from pg_class limit 1")

    def test_an_advisory_lock(self) -> None:
        """A lock of the session, which no transaction ends, is gone."""
        with self.leaving() as left:
            left.execute("select pg_advisory_lock(42)")
        self.assert_next("true", "select pg_try_advisory_lock(42)::text")

    def test_a_long_query(self) -> None:
        """A query that still runs is ended."""
        with self.leaving() as left:
            left.pgconn.send_query(b"select pg_sleep(3600)")
        self.assert_next(
            0,
            "select count(*) from pg_stat_activity where query ~ '^select pg_sleep'"
            " and pid <> pg_backend_pid()",
        )

    def test_a_prepared_transaction(self) -> None:
        """A transaction that waits for its second phase is rolled back."""
        with self.leaving() as left:
            left.execute("begin")
            left.execute("create table prepared(id int)")
            left.execute("prepare transaction 'it''s here'")
        self.assert_next(0, "select count(*) from pg_prepared_xacts")

    def test_a_replication_slot(self) -> None:
        """A logical slot, which forbids dropping its database, is dropped."""
        with self.leaving() as left:
            left.execute("select pg_create_logical_replication_slot('slot', 'pgoutput')")
        self.assert_next(0, "select count(*) from pg_replication_slots")

    def test_settings(self) -> None:
        """Settings of the session, the role, the database and the system are what they were."""
        before = 4 << 20
        with self.leaving() as left:
            left.execute("set work_mem = '65kB'")
            left.execute("alter role current_user set work_mem = '66kB'")
            left.execute("alter database test set work_mem = '67kB'")
            left.execute("alter system set work_mem = '68kB'")
            left.execute("select pg_reload_conf()")
        self.assert_next(before, "select pg_size_bytes(current_setting('work_mem'))")
        self.assert_next(
            before, "select reset_val::int * 1024 from pg_settings where name = 'work_mem'"
        )

    def test_a_role_with_everything(self) -> None:
        """A role that owns things, and is a member of others, is dropped."""
        with self.leaving() as left:
            left.execute('create role "the app" login in role pg_monitor')
            left.execute('create schema apps authorization "the app"')
            left.execute("create table apps.t(id int)")
            left.execute('alter table apps.t owner to "the app"')
            left.execute('grant select on pg_class to "the app"')
        self.assert_next(0, "select count(*) from pg_roles where rolname = 'the app'")

    def test_a_changed_superuser(self) -> None:
        """Its password, limits and memberships are what they were."""
        with self.leaving() as left:
            left.execute("alter role current_user password 'other' connection limit 0")
            left.execute("grant pg_monitor to current_user")
        self.assert_next(-1, "select rolconnlimit from pg_roles where rolname = current_user")
        self.assert_next(0, "select count(*) from pg_auth_members where member = 'test'::regrole")

    def test_a_database(self) -> None:
        """A database that the test made, and is connected to, is dropped."""
        with self.leaving() as left:
            left.execute('create database "Another One"')
            other = psycopg.connect(
                left.info.dsn, password=type(self).db.password, dbname="Another One"
            )
            self.addCleanup(other.close)  # type: ignore[attr-defined]
        self.assert_next(0, "select count(*) from pg_database where datname = 'Another One'")

    def test_what_it_made_beside_its_schema(self) -> None:
        """Schemas, tables, types, functions and extensions elsewhere are dropped."""
        with self.leaving() as left:
            left.execute("create schema elsewhere")
            left.execute("create type public.mood as enum ('sad', 'ok')")
            left.execute("create table public.people(id serial primary key, now public.mood)")
            left.execute("create view public.happy as select * from public.people")
            left.execute("create function public.f(int) returns int language sql as 'select 1'")
            left.execute("create extension if not exists pg_trgm schema public")
            left.execute("create publication everything for all tables")
        self.assert_next(
            0,
            "select (select count(*) from pg_namespace where nspname = 'elsewhere')"
            " + (select count(*) from pg_class where relname in ('people', 'happy'))"
            " + (select count(*) from pg_type where typname = 'mood')"
            " + (select count(*) from pg_proc where proname in ('f', 'similarity'))"
            " + (select count(*) from pg_publication)",
        )

    def test_an_idle_connection_of_the_class_is_not_cut_off(self) -> None:
        """Only the test's own sessions, and those that hold something, are ended."""
        with type(self).db.connect(autocommit=True, dbname="template1") as connection:
            connection.execute("select 1")
            self.asked("select 1")
            self.assertEqual((1,), connection.execute("select 1").fetchone())  # type: ignore[attr-defined]


_SETTINGS: dict[str, str | float] = {"max_prepared_transactions": 5, "wal_level": "logical"}


class SchemaLeftoversTest(Leftovers, ServicesMixin, unittest.TestCase):
    """isolation="schema"."""

    db = Postgres(settings=_SETTINGS)


class DatabaseLeftoversTest(Leftovers, ServicesMixin, unittest.TestCase):
    """isolation="database"."""

    db = Postgres(settings=_SETTINGS, isolation="database")


class TransactionLeftoversTest(Leftovers, ServicesMixin, unittest.TestCase):
    """isolation="transaction", where the dsn leads past the transaction."""

    db = Postgres(settings=_SETTINGS, isolation="transaction")
