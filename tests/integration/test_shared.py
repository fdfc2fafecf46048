"""scope="run": what two of `Services`, at once on one server, can do to each other: nothing."""

import unittest
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import redis.exceptions
import sqlalchemy
from kafka.errors import (
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailedError,
)
from sqlalchemy import text

from orchestrator import Kafka, Postgres, Redis, Services
from orchestrator.errors import DeclarationError

# What an application may have, and what its tests' user must be able to change.
_MIGRATION = """
    create table orders(id serial primary key, name text);
    insert into orders(name) values ('one');
    create schema audit;
    create view audit.names as select name from orders;
    create type mood as enum ('good');
    create function touch() returns event_trigger language plpgsql as 'begin end';
    create event trigger touched on ddl_command_end execute function touch();
    create publication everything for all tables;
    grant select on orders to app;
    alter role app set work_mem = '5MB';
"""
_CHANGES = """
    truncate orders;
    alter table orders add paid boolean;
    drop schema audit cascade;
    drop type mood;
    drop table dumped;
    create extension pg_trgm;
"""
_LEFTOVERS = """
    create schema other;
    create table other.thing();
    select lo_create(4711);
    alter role current_user set work_mem = '3MB';
"""
_NEED_SUPERUSER = (
    "create role another",
    "create database another",
    "alter system set work_mem = '1MB'",
    "create tablespace another location '/tmp'",
    "create subscription another connection '' publication another",
    "drop role app",
    "alter role app password 'known'",
    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'orchestrator'",
    "select pg_read_file('postgresql.conf')",
    "copy orders from program 'true'",
    "set role orchestrator",
    "set role test",
)


def migrate(engine: sqlalchemy.Engine) -> None:
    """As an application does."""
    with engine.begin() as connection:
        connection.execute(text(_MIGRATION))


def migrate_bills(engine: sqlalchemy.Engine) -> None:
    """Another database's."""
    with engine.begin() as connection:
        connection.execute(text("create table bills(id integer)"))


class Shop(Services):
    """What both declare."""

    db = Postgres(
        scope="run",
        init=[Path(__file__).with_name("shared.sql")],
        migrate=migrate,
        roles=["app"],
        databases={"bills": migrate_bills},
        startup_timeout=120,
    )
    plain = Postgres(scope="run", startup_timeout=120)
    cache = Redis(scope="run", startup_timeout=120)
    events = Kafka(scope="run", startup_timeout=120)
    secured = Kafka(scope="run", startup_timeout=120, security="sasl_plaintext")


def ask(handle: Postgres, statement: str) -> list[object]:
    """The first column of what a statement finds, if it finds anything."""
    with handle.connect(autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return [row[0] for row in cursor] if cursor.description else []


class SharedTest(unittest.TestCase):
    """Two of them."""

    one: ClassVar[Shop]
    two: ClassVar[Shop]

    @classmethod
    def setUpClass(cls) -> None:
        """Start the first, and have a part of the same servers for the second."""
        super().setUpClass()
        cls.one, cls.two = (cls.enterClassContext(Shop()) for _ in range(2))
        assert cls.one.db.container_id == cls.two.db.container_id

    def test_same_names_are_not_the_same_things(self) -> None:
        """Tables, databases, keys and topics; what one has does not go with the other."""
        with self.one.isolated("clash") as one:
            for table in ("clash", "public.clash"):
                ask(one.plain, f"create table {table}()")
            one.cache.client.set(one.cache.key("clash"), 1)
            topic = one.events.topic("clash")
            with one.events.producer() as producer:
                producer.send(topic, b"one").get(10)
            with self.two.isolated("clash") as two:
                for table in ("clash", "public.clash"):
                    ask(two.plain, f"create table {table}()")
                self.assertIsNone(two.cache.client.get(two.cache.key("clash")))
                self.assertEqual([], ask(two.db.in_database("bills"), "select 1 from bills"))
                ask(two.db.in_database("bills"), "insert into bills values (1)")
                self.assertNotIn(two.events.topic("clash"), topic)
            self.assertEqual([], ask(one.plain, "select 1 from clash"))
            self.assertEqual([], ask(one.db.in_database("bills"), "select 1 from bills"))
            self.assertEqual(b"1", one.cache.client.get(one.cache.key("clash")))
            self.assertEqual(b"one", one.events.consume(topic)[0].value)

    def test_clean_for_the_next_test(self) -> None:
        """What a test left outside its schema, or changed of its role, is gone."""
        with self.one.isolated("first") as first:
            ask(first.plain, _LEFTOVERS)
            first.cache.client.set(first.cache.key("left"), "over")
            keys, left = first.cache.key("*"), first.events.topic("left")
        with self.one.isolated("second") as second:
            schemas = ask(second.plain, "select nspname from pg_namespace where oid > 16384")
            self.assertEqual([second.plain.schema], schemas)
            self.assertEqual([], ask(second.plain, "select oid from pg_largeobject_metadata"))
            self.assertEqual(["4MB"], ask(second.plain, "show work_mem"))
            self.assertEqual([], self.one.cache.client.keys(keys))
            self.assertNotIn(left, second.events.admin.list_topics())

    def test_what_was_migrated_is_the_tests_own(self) -> None:
        """It can change what init files and migrations made; roles have their rights."""
        with self.one.isolated("owner") as clean:
            self.assertEqual(["app"], ask(clean.db.as_role("app"), "select current_user"))
            self.assertEqual(["one"], ask(clean.db.as_role("app"), "select name from orders"))
            ask(clean.db.as_role("app"), "alter role app set work_mem = '7MB'")
            ask(clean.db, _CHANGES)
        with self.two.isolated("owner") as clean:
            self.assertEqual(["one"], ask(clean.db, "select name from audit.names"))
            self.assertEqual(["5MB"], ask(clean.db.as_role("app"), "show work_mem"))

    def test_postgres_refuses_what_others_would_notice(self) -> None:
        """No right that reaches beyond one's own databases, and no way into any other."""
        with self.one.isolated("mine") as clean:
            for statement in _NEED_SUPERUSER:
                with (
                    self.subTest(statement),
                    self.assertRaises(psycopg.errors.InsufficientPrivilege),
                ):
                    ask(clean.db, statement)
            others = "datallowconn and datdba <> current_user::regrole"
            for name in ask(clean.db, f"select datname from pg_database where {others}"):
                with (
                    self.subTest(name),
                    self.assertRaisesRegex(psycopg.OperationalError, "permission denied"),
                ):
                    clean.db.copy_with(database=str(name)).connect()

    def test_redis_refuses_what_is_not_the_users(self) -> None:
        """By ACL: keys, channels and scripts of others; commands about the server."""
        with self.one.isolated("mine") as clean, self.two.isolated("mine") as other:
            client: Any = clean.cache.client
            key = other.cache.key("x")
            for words in (
                ("set", "x", "1"),
                ("get", key),
                ("eval", "return redis.call('set', KEYS[1], 1)", "1", key),
                ("publish", other.cache.key("news"), "1"),
                ("flushall",),
                ("flushdb",),
                ("dbsize",),
                ("config", "set", "maxmemory", "1"),
                ("acl", "list"),
                ("function", "flush"),
                ("script", "flush"),
                ("client", "pause", "1"),
                ("swapdb", "0", "1"),
                ("shutdown",),
            ):
                with self.subTest(words), self.assertRaises(redis.exceptions.NoPermissionError):
                    client.execute_command(*words)
            with redis.from_url(clean.cache.url) as by_url:
                by_url.eval("redis.call('set', KEYS[1], 1)", 1, clean.cache.key("x"))
                by_url.publish(clean.cache.key("news"), "1")

    def test_kafka_refuses_names_that_are_nobodys(self) -> None:
        """Topics, groups and transactions without a prefix; and to delete who knows whose topic."""
        with self.one.isolated("mine") as clean:
            events = clean.events
            with self.assertRaises(TopicAuthorizationFailedError):
                events.producer().send("orders", b"1").get(10)
            with self.assertRaises(GroupAuthorizationFailedError):
                events.consumer(events.topic("orders"), group_id="mine").poll(5000)
            with self.assertRaises(TransactionalIdAuthorizationFailedError):
                events.producer(transactional_id="mine").init_transactions()
            producer = events.producer(transactional_id=f"{events.prefix}mine")
            producer.init_transactions()
            with self.assertRaises(TopicAuthorizationFailedError):
                events.admin.delete_topics([events.topic("orders")])

    def test_kafka_with_scram_refuses_names_of_others(self) -> None:
        """A user of the class's own: it sees, uses and deletes its own topics, and no other."""
        with self.one.isolated("mine") as one, self.two.isolated("mine") as two:
            topic, other = one.secured.topic("orders"), two.secured.topic("orders")
            with one.secured.producer() as producer:
                producer.send(topic, b"paid").get(10)
                with self.assertRaises(TopicAuthorizationFailedError):
                    producer.send(other, b"paid").get(10)
            self.assertEqual(b"paid", one.secured.consume(topic)[0].value)
            self.assertEqual([topic], one.secured.admin.list_topics())
            one.secured.admin.delete_topics([topic])

    def test_faults_are_refused_by_name(self) -> None:
        """They would strike everybody."""
        for service in (self.one.plain, self.one.cache):
            for fault in ("kill", "restart", "paused", "partitioned", "slowed"):
                with self.assertRaisesRegex(DeclarationError, rf"{service.alias}\.{fault}\(\) "):
                    getattr(service, fault)()
