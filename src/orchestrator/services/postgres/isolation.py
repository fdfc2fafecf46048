"""Clean state for each test: a schema, a clone of the class's database, or a transaction.

A snapshot before the test and one after it tell what came beside that: prepared transactions,
replication slots, databases, roles, settings of roles, databases and the whole system; and, in a
database that tests share, what stands outside of the test's schema. The next test meets none of it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import ServiceError
from orchestrator.services.once import driver
from orchestrator.services.postgres.admin import APPLICATION, literal, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.services.postgres.admin import Admin

    Snapshot = Mapping[str, Any]

_log: Final = logging.getLogger("orchestrator.postgres")
_NAME_LENGTH: Final = 63  # bytes; the server cuts off what is longer
_FILE_COPY_SINCE: Final = 15
_END_IDLE: Final = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = %s and pid <> pg_backend_pid() and state = 'idle'
"""
_USERS_OF: Final = """
    select count(*), min(coalesce(nullif(application_name, ''), 'unnamed')), min(query)
    from pg_stat_activity where datname = %s and pid <> pg_backend_pid()
"""

# Of these every row is restored as it was: what `alter role`, `alter database`, `grant` change.
_CATALOGS: Final = ("pg_authid", "pg_auth_members", "pg_db_role_setting")
_MADE: Final = "oid >= 16384"  # what the server came with has lower numbers
# Of the server's own roles only the first superuser can be altered.
_ALTERABLE: Final = {"pg_authid": f"where {_MADE} or oid = 10"}
_RELATIONS: Final = f"""
    select oid::regclass from pg_class
    where {_MADE} and relpersistence <> 't' and not relispartition and relkind
"""  # noqa: S608 - made of constants
# Kinds of objects in a database, and how to list their names.
_NAMED: Final = {
    "event trigger": "select evtname from pg_event_trigger",
    "publication": "select pubname from pg_publication",
    "extension": "select extname from pg_extension",
    "server": "select srvname from pg_foreign_server",
    "schema": "select nspname from pg_namespace where nspname !~ '^pg_'",
}
# Kinds of objects in schemas, and how to list their names as SQL takes them.
_QUALIFIED: Final = {
    "view": f"{_RELATIONS} = 'v'",
    "materialized view": f"{_RELATIONS} = 'm'",
    "foreign table": f"{_RELATIONS} = 'f'",
    "table": f"{_RELATIONS} in ('r', 'p')",
    "sequence": f"{_RELATIONS} = 'S'",
    "routine": f"select oid::regprocedure from pg_proc where {_MADE}",  # noqa: S608
    "type": f"select oid::regtype from pg_type where {_MADE} and typtype in ('e', 'd', 'r')",  # noqa: S608
}


def _object(members: Mapping[str, str]) -> str:
    pairs = ", ".join(f"'{name}', {sql}" for name, sql in members.items())
    return f"json_build_object({pairs})"


def _list(query: str) -> str:
    return f"(select coalesce(json_agg(item), '[]') from ({query}) found(item))"  # noqa: S608


_SERVER: Final = {
    "at": "clock_timestamp()",
    "databases": _list("select datname from pg_database"),
    "prepared": _list("select json_build_array(gid, database) from pg_prepared_xacts"),
    "slots": _list("select slot_name from pg_replication_slots"),
    "system": "pg_read_file('postgresql.auto.conf')",
    **{
        name: _list(f"select to_jsonb(t) from {name} t {_ALTERABLE.get(name, '')}")  # noqa: S608
        for name in _CATALOGS
    },
}
_INSIDE: Final = {
    "inside": _object({kind: _list(query) for kind, query in {**_NAMED, **_QUALIFIED}.items()})
}
# Sessions of the test's own clients, and others that began since and still do something or hold
# something. An idle one may be in a pool of the class's that is needed again. The function is what
# pg_stat_activity joins with names, which takes as long again.
_END_SESSIONS: Final = f"""
    with ended as materialized (
        select pg_terminate_backend(pid) from pg_stat_get_activity(null)
        where application_name <> '{APPLICATION}'
          and backend_type in ('client backend', 'walsender')
          and (application_name = %s or backend_start >= %s
               and (state <> 'idle' or pid in (select pid from pg_locks)))
    )
"""  # noqa: S608 - made of constants
_ENDED: Final = {"ended": "(select count(*) from ended)"}


def name_of(test: str) -> str:
    """What a test's schema or database is called: a plain name, recognisable in logs."""
    plain = re.sub(r"[^a-z0-9_]", "_", test.lower())
    return f"{'' if plain.startswith('test') else 'test_'}{plain}"[-_NAME_LENGTH:]


@contextlib.contextmanager
def schema(admin: Admin, name: str, *, roles: Sequence[str]) -> Iterator[None]:
    """An empty schema, which the class's roles may use; dropped when the block ends."""
    admin.run(f"create schema if not exists {name}")
    if roles:
        admin.run(f"grant usage on schema {name} to {', '.join(map(quoted, roles))}")
    try:
        yield
    finally:
        admin.run(f"drop schema if exists {name} cascade")


@contextlib.contextmanager
def clone(admin: Admin, name: str, *, of: str, durable: bool, alias: str) -> Iterator[None]:
    """A copy of a database; dropped when the block ends.

    Raises:
        ServiceError: Somebody works in the original.
    """
    # Copying files beats replaying them as WAL, except when each must reach the disk.
    files = not durable and admin.major >= _FILE_COPY_SINCE
    statement = f"create database {name} template {quoted(of)}"
    statement += " strategy file_copy" if files else ""
    in_use = driver("psycopg.errors", extra="postgres").ObjectInUse
    try:
        admin.run(statement)
    except in_use:
        admin.run(_END_IDLE, [of])
        try:
            admin.run(statement)
        except in_use as error:
            [(count, application, query)] = admin.run(_USERS_OF, [of])
            raise ServiceError(
                f"{alias}: the class's database {of!r} cannot be cloned for the test while {count} "
                f"connection(s) work in it (application {application}, query {query!r}). "
                "End what setUpClass began there: commit, or close the connection.",
                service=alias,
            ) from error
    try:
        yield
    finally:
        admin.run(f"drop database if exists {name} with (force)")


class Leftovers:
    """What tests leave on a server, beside their own schema or database.

    Args:
        admin: Connected to the database that tests share, if they share one.
        shared: Whether they do.
    """

    def __init__(self, admin: Admin, *, shared: bool) -> None:
        self._admin = admin
        self._looked_at: Mapping[str, str] = {**_SERVER, **_INSIDE} if shared else _SERVER

    @contextlib.contextmanager
    def cleared(
        self, state: contextlib.AbstractContextManager[None], *, test: str, own: str
    ) -> Iterator[None]:
        """Around a test and its state: nothing else of the test is left when the block ends.

        Args:
            state: The test's own schema, database or transaction.
            test: What its sessions are called.
            own: What its schema or database is called.
        """
        before = self._snapshot()
        after: Snapshot | None = None
        try:
            with state:
                try:
                    yield
                finally:
                    after = self._end_sessions(test=test, since=before)
                    self._drop_blockers(before, after)
        finally:
            if after is not None:
                self._restore(before, after, own=own)

    def _snapshot(self) -> Snapshot:
        [[found]] = self._admin.run(f"select {_object(self._looked_at)}")
        return found  # type: ignore[no-any-return]

    def _end_sessions(self, *, test: str, since: Snapshot) -> Snapshot:
        """End what the test's clients still do: open transactions, long queries, locks."""
        [[found]] = self._admin.run(
            f"{_END_SESSIONS} select {_object({**_ENDED, **self._looked_at})}", [test, since["at"]]
        )
        return found  # type: ignore[no-any-return]

    def _drop_blockers(self, before: Snapshot, now: Snapshot) -> None:
        """Drop what would keep a schema or a database from being dropped."""
        for gid, database in _new(before["prepared"], now["prepared"]):
            _tell("prepared transaction", gid)
            with contextlib.closing(self._admin.elsewhere(database)) as admin:
                admin.run(f"rollback prepared {literal(gid)}")  # it ends only where it began
        for slot in _new(before["slots"], now["slots"]):
            _tell("replication slot", slot)
            self._admin.run("select pg_drop_replication_slot(%s)", [slot])

    def _restore(self, before: Snapshot, now: Snapshot, *, own: str) -> None:
        """Drop the rest of what came, and restore what was changed."""
        if "inside" in before:
            self._drop_objects(before["inside"], now["inside"], own=own)
        for database in _new([*before["databases"], own], now["databases"]):
            _tell("database", database)
            self._admin.run(f"drop database if exists {quoted(database)} with (force)")
        known = {row["oid"] for row in before["pg_authid"]}
        for role in (row["rolname"] for row in now["pg_authid"] if row["oid"] not in known):
            _tell("role", role)
            self._admin.run(f"drop owned by {quoted(role)} cascade; drop role {quoted(role)}")
        for name in _CATALOGS:
            # Their order matters seldom, and sorting takes longer than the look itself.
            if before[name] != now[name] and _texts(before[name]) != _texts(now[name]):
                self._restore_catalog(name, before[name])
        if before["system"] != now["system"]:
            self._restore_system(before["system"])

    def _drop_objects(
        self, before: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[str]], *, own: str
    ) -> None:
        for kind in (*_NAMED, *_QUALIFIED):
            for name in _new(before[kind], now[kind]):
                if name != own and not name.startswith(f"{own}."):
                    _tell(kind, name)
                    shown = quoted(name) if kind in _NAMED else name
                    self._admin.run(f"drop {kind} if exists {shown} cascade")

    def _restore_catalog(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Superusers may write to catalogs; nothing else restores a row, password and all."""
        wanted = f"""(select w.* from jsonb_populate_recordset(
            null::{name}, {literal(json.dumps(rows))}::jsonb) w)"""  # noqa: S608 - quoted
        if name == "pg_authid":  # never without its row, even for a moment: it may be our own
            columns = [column for row in rows[:1] for column in row if column != "oid"]
            change = f"""update {name} t set {", ".join(f"{c} = w.{c}" for c in columns)}
                from {wanted} w where w.oid = t.oid and to_jsonb(w) <> to_jsonb(t)"""  # noqa: S608
        else:
            change = f"""delete from {name} t where not exists
                (select from {wanted} w where to_jsonb(w) = to_jsonb(t))"""  # noqa: S608
        self._admin.run(
            f"""{change};
                insert into {name} select w.* from {wanted} w where not exists
                    (select from {name} t where to_jsonb(t) = to_jsonb(w))"""  # noqa: S608
        )

    def _restore_system(self, text: str) -> None:
        """Undo `alter system`; a line of the file is ``name = 'value'``."""
        _tell("settings of", "alter system")
        self._admin.run("alter system reset all")
        for line in text.splitlines():
            if "=" in line and not line.startswith("#"):
                self._admin.run(f"alter system set {line}")
        self._admin.run("select pg_reload_conf()")


def _new(before: Sequence[Any], now: Sequence[Any]) -> list[Any]:
    """What is there now and was not before."""
    return [item for item in now if item not in before]


def _texts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def _tell(kind: str, name: str) -> None:
    """Log what a test left behind."""
    _log.info("a test left the %s %s behind; it goes", kind, name)
