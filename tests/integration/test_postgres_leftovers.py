"""Postgres: what a test leaves behind does not disturb the next one."""

import unittest
from collections.abc import Mapping
from typing import Final

import psycopg

from orchestrator import Postgres, ServicesMixin

# What a test makes; the tables where the next one counts what there is.
MADE: Final = (
    """create role "the app" login in role pg_monitor""",
    """create schema apps authorization "the app" create table t(id int)""",
    """grant select on pg_class to "the app" """,
    "alter default privileges grant select on tables to pg_monitor",
    "create type public.mood as enum ('sad', 'ok')",
    "create table public.people(id serial primary key, now public.mood)",
    "create view public.happy as select * from public.people",
    "create function public.f(int) returns int language sql as 'select 1'",
    "create aggregate public.total(int) (sfunc = int4pl, stype = int)",
    "create operator public.=== (function = int4eq, leftarg = int, rightarg = int)",
    "create cast (public.mood as int) with inout",
    "create collation public.german (locale = 'C')",
    "create text search configuration public.plain (copy = simple)",
    "create statistics public.s on id, now from public.people",
    "create extension pg_trgm schema public",
    "create foreign data wrapper wrapper",
    "create server far foreign data wrapper wrapper",
    "create user mapping for current_user server far",
    "create publication everything for all tables",
    "create trusted language other handler plpgsql_call_handler",
    "select lo_create(0), lo_create(4242)",
    "create access method heap2 type table handler heap_tableam_handler",
    """create database "Another One" """,
    "select pg_create_logical_replication_slot('slot', 'pgoutput')",
    "create subscription news connection 'dbname=nowhere' publication p with (connect = false)",
    """create function public.no() returns event_trigger language plpgsql
    as $$ begin raise 'not in this database'; end $$""",
    "create event trigger no on ddl_command_start execute function public.no()",
    "alter event trigger no enable always",
)
TABLES: Final = (
    *("pg_authid", "pg_namespace", "pg_class", "pg_default_acl", "pg_type", "pg_proc"),
    *("pg_operator", "pg_cast", "pg_collation", "pg_ts_config", "pg_statistic_ext"),
    *("pg_extension", "pg_foreign_data_wrapper", "pg_foreign_server", "pg_user_mapping"),
    *("pg_publication", "pg_language", "pg_largeobject_metadata", "pg_am", "pg_database"),
    *("pg_replication_slots", "pg_subscription", "pg_event_trigger", "pg_shdepend"),
)
# What a test sets, and what the next one finds of it.
SET: Final = {
    "set work_mem = '65kB'": "current_setting('work_mem')",
    "alter role current_user set work_mem = '66kB'": "current_setting('work_mem')",
    "alter database test set work_mem = '67kB'": "current_setting('work_mem')",
    "alter system set work_mem = '68kB'": "pg_read_file('postgresql.auto.conf')",
    "alter system set default_transaction_read_only = on": (
        "current_setting('default_transaction_read_only')"
    ),
    "alter database test connection limit 0": (
        "(select datconnlimit from pg_database where datname = 'test')"
    ),
    "alter role current_user password 'other' connection limit 0": (
        "(select rolconnlimit from pg_roles where rolname = 'test')"
    ),
    "grant pg_monitor to current_user": (
        "(select count(*) from pg_auth_members where roleid = 'pg_monitor'::regrole)"
    ),
    "alter role app nologin": "(select rolcanlogin from pg_roles where rolname = 'app')",
}


_SETTINGS: dict[str, str | float] = {"max_prepared_transactions": 5, "wal_level": "logical"}


class SchemaLeftoversTest(ServicesMixin, unittest.TestCase):
    """One test leaves something, the next one looks: isolation="schema", no encoding at all."""

    db = Postgres(
        settings=_SETTINGS,
        roles=["app"],
        env={"POSTGRES_INITDB_ARGS": "--no-sync --encoding=SQL_ASCII --locale=C"},
    )

    def left(self, *statements: str) -> psycopg.Connection[tuple[object, ...]]:
        """What a test has executed in a connection that it opens by itself, and leaves open."""
        with type(self).db.isolated("test_leaves-1") as handle:
            connection = psycopg.connect(handle.dsn, autocommit=True)
            self.addCleanup(connection.close)
            for statement in statements:
                connection.execute(statement)
        return connection

    def asked(self, queries: Mapping[str, str]) -> dict[str, object]:
        """The answers that the next test gets."""
        with (
            type(self).db.isolated("test_next-2") as handle,
            psycopg.connect(handle.dsn, autocommit=True) as connection,
        ):
            found = (connection.execute(f"select {query}").fetchone() for query in queries.values())
            return {key: row[0] for key, row in zip(queries, found, strict=True) if row}

    def test_what_it_made_is_gone(self) -> None:
        """Objects of every kind, in its database or the server's, owned by whomever."""
        counts = {table: f"count(*) from {table}" for table in TABLES}
        # Not the databases of tests, which come and go by themselves.
        counts["pg_database"] += " where datname not like 'test_%'"
        counts["pg_shdepend"] += " where dbid in (select 0 union select oid from pg_database"
        counts["pg_shdepend"] += " where datname = current_database())"
        before = self.asked(counts)
        self.left(*MADE)
        self.assertEqual(before, self.asked(counts))

    def test_what_it_set_is_as_it_was(self) -> None:
        """Settings of the session, roles, databases and the system; passwords and memberships."""
        before = self.asked(SET)
        self.left(*SET, "select pg_reload_conf()")
        self.assertEqual(before, self.asked(SET))

    def test_what_it_still_does_is_ended(self) -> None:
        """Open transactions with their locks, locks of the session, queries, prepared ones."""
        with type(self).db.isolated("test_leaves-1") as handle:
            for statements in (
                ["begin", "select pg_current_xact_id()", "prepare transaction 'it''s here'"],
                ["select pg_advisory_lock(42)"],
                ["begin", "create table t(id int)", "lock table pg_class in exclusive mode"],
            ):
                connection = psycopg.connect(handle.dsn, autocommit=True)
                self.addCleanup(connection.close)
                for statement in statements:
                    connection.execute(statement)
            connection.pgconn.send_query(b"select pg_sleep(3600)")
        asked = {
            "asleep": "count(*) from pg_stat_activity where query ~ '^select pg_sleep'",
            "unlocked": "pg_try_advisory_lock(42)::int",
            "prepared": "count(*) from pg_prepared_xacts",
        }
        self.assertEqual({"asleep": 0, "unlocked": 1, "prepared": 0}, self.asked(asked))

    def test_an_idle_connection_of_the_class_is_not_cut_off(self) -> None:
        """Only the test's own sessions, and those that hold something, are ended."""
        with type(self).db.connect(autocommit=True, dbname="template1") as connection:
            connection.execute("select 1")
            self.asked({})
            self.assertEqual((1,), connection.execute("select 1").fetchone())


class DatabaseLeftoversTest(SchemaLeftoversTest):
    """isolation="database"."""

    db = Postgres(settings=_SETTINGS, roles=["app"], isolation="database")
