"""What a test leaves on a server beside its own schema or database: gone before the next one.

Two rules say what that is. What has an oid is numbered by one counter: the test has made whatever
is numbered above what the counter showed before it. And rows that hold settings are compared with
those from before. Of several tests at once, each leaves alone what is in the state of another.
"""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any, Final

from orchestrator.services.once import ProcessLock, driver, locked_property
from orchestrator.services.postgres.setup import APPLICATION, LOGIN_UNTIL, literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.services.postgres.admin import Admin

    Look = Mapping[str, Any]

_log: Final = logging.getLogger("orchestrator.postgres")
# What is known of the time before a test is the parameter of the queries; each is read once.
_MARK: Final = "(select ($1::jsonb ->> 'mark')::int8)"
_XID: Final = "(select ($1::jsonb ->> 'xid')::int8)"
_AT: Final = "(select ($1::jsonb ->> 'at')::timestamptz)"
_OWN: Final = "(select $1::jsonb ->> 'own')"
_NAMES: Final = "array(select jsonb_array_elements_text($1::jsonb -> 'names'))"
_OTHERS: Final = "array(select jsonb_array_elements_text($1::jsonb -> 'others'))"
# The logins of tests are none of theirs; this tells them.
_LOGINS: Final = f"(select oid from pg_authid where rolvaliduntil = '{LOGIN_UNTIL}')"  # noqa: S608
# Rows that are restored as they were: what `alter role`, `alter database`, `grant` change. Of the
# server's own roles only the first superuser can be altered.
_ROWS: Final = {
    "pg_authid": "where (oid >= 16384 or oid = 10) and oid not in {logins}",
    "pg_auth_members": "where member not in {logins}",
    "pg_db_role_setting": "where setrole not in {logins}",
    "pg_database": "where datname <> all({names})",
}
_WHERE_SUBSCRIBED: Final = """
    select datname from pg_subscription s join pg_database d on d.oid = subdbid where s.oid = %s
"""
_WHERE_OWNED: Final = """
    select distinct datname from pg_shdepend join pg_database d on d.oid = dbid
    where refclassid = 'pg_authid'::regclass and refobjid = %s and datname <> current_database()
"""
_LARGE_OBJECTS: Final = "pg_largeobject"  # of which each has several rows
_SLOTS: Final = "select json_build_array(slot_name, database) from pg_replication_slots"
# Their oid may be chosen, but not the transaction that made them.
_LARGE: Final = f"""
    select '{_LARGE_OBJECTS}' catalog, oid from pg_largeobject_metadata
    where xmin::text::int8 >= {_XID} % 4294967296
"""  # noqa: S608 - made of constants
_COUNTER: Final = "pg_nextoid('pg_class', 'oid', 'pg_class_oid_index')::int8"
# While it stays the same, nothing that was written has been committed anywhere on the server.
_SNAPSHOT: Final = "pg_current_snapshot()::text"
_BEFORE: Final = {
    "mark": _COUNTER,
    "xid": "pg_snapshot_xmax(pg_current_snapshot())::text::int8",
    "snapshot": _SNAPSHOT,
}
_PREPARED: Final = f"""
    select json_build_array(gid, database) from pg_prepared_xacts where prepared >= {_AT}
"""  # noqa: S608 - made of constants
_DROP_SLOT: Final = """
    do $$ begin
        for attempt in 1..500 loop
            begin
                perform pg_drop_replication_slot({slot});
                return;
            exception when object_in_use then
                perform pg_terminate_backend(active_pid), pg_sleep(0.01)
                    from pg_replication_slots where slot_name = {slot};
            end;
        end loop;
    end $$
"""
# What has an oid in a database; without parts of tables and the like, which go with those.
_NUMBERED: Final = """
    select relname from pg_class join pg_attribute on attrelid = pg_class.oid
    where attname = 'oid' and relkind = 'r' and relnamespace = 'pg_catalog'::regnamespace
      and not relisshared and relname <> all('{pg_amop,pg_amproc,pg_attrdef,pg_constraint,pg_enum,
        pg_largeobject_metadata,pg_policy,pg_publication_namespace,pg_publication_rel,pg_rewrite,
        pg_trigger}')
"""


def _list(query: str) -> str:
    return f"(select coalesce(json_agg(item), '[]') from ({query}) found(item))"  # noqa: S608


def _object(members: Mapping[str, str]) -> str:
    pairs = ", ".join(f"'{name}', {sql}" for name, sql in members.items())
    return f"json_build_object({pairs})"


# What changes without a transaction.
_ALWAYS: Final = {
    "snapshot": _SNAPSHOT,
    "slots": _list(_SLOTS),
    "system": "pg_read_file('postgresql.auto.conf')",
}
# On a server that others use, too, a test can do nothing that needs a superuser. What it could
# change of the server's is its role's, and of the databases that its role owns.
_OF_PART: Final = {
    "pg_authid": "where rolname = '{part}'",
    "pg_auth_members": "where '{part}'::regrole in (member, roleid) and member not in {{logins}}",
    "pg_db_role_setting": """
        where (setrole = '{part}'::regrole or setdatabase in {mine}) and setrole not in {{logins}}
    """,
    "pg_database": "where datdba = '{part}'::regrole and datname <> all({{names}})",
}
_DATABASES_OF: Final = "(select oid from pg_database where datdba = '{part}'::regrole)"
_PREPARED_OF: Final = (
    "{prepared} and database in (select datname from pg_database where oid in {mine})"
)
_NOTHING: Final = "select 1 where false"
# What the server has beside, without logins and databases of tests.
_OF_SERVER: Final = f"""
    select 'pg_database' catalog, oid from pg_database
    where oid > {_MARK} and datname <> all({_NAMES})
    union all select 'pg_tablespace', oid from pg_tablespace where oid > {_MARK}
    union all select 'pg_subscription', oid from pg_subscription where oid > {_MARK}
    union all select 'pg_authid', oid from pg_authid where oid > {_MARK} and oid not in {_LOGINS}
"""  # noqa: S608 - made of constants
_NEW: Final = f"select json_build_array(catalog, oid::int8) from ({_OF_SERVER}) made"  # noqa: S608
_SUBSCRIPTIONS: Final = f"""
    select 'pg_subscription' catalog, s.oid from pg_subscription s join pg_database d
    on d.oid = subdbid where s.oid > {_MARK} and datname <> all({_OTHERS})
"""  # noqa: S608 - made of constants
_EVENT_TRIGGERS: Final = f"""
    select 'pg_event_trigger' catalog, oid from pg_event_trigger where oid > {_MARK}
"""  # noqa: S608 - made of constants
# Sessions of the test's own logins, and others that began since and still do something or hold
# something. An idle one may be in a pool of the class's that is needed again. The function is what
# pg_stat_activity joins with names, which takes as long again.
_END_SESSIONS: Final = f"""
    with ended as materialized (
        select pg_terminate_backend(pid) from pg_stat_get_activity(null)
        where application_name <> '{APPLICATION}'
          and backend_type in ('client backend', 'walsender')
          and (usesysid in (select oid from pg_authid where rolname ~ {_OWN})
               or backend_start >= {_AT}
                  and (state <> 'idle' or pid in (select pid from pg_locks))
                  and usesysid not in {_LOGINS}
                  {{further}}
                  and datid not in (
                      select oid from pg_database where datname = any({_OTHERS})))
    )
"""  # noqa: S608 - made of constants


def _queries(part: str) -> tuple[Sequence[str], Sequence[str]]:
    """What is asked before a test, and what clears after it; see `Leftovers` for `part`.

    Each without what has to be known only where something was written, and with it: that takes as
    long again.
    """
    conditions, always, new = _ROWS, _ALWAYS, _NEW
    prepared, further = _PREPARED, ""
    if part:
        mine = _DATABASES_OF.format(part=part)
        conditions = {name: it.format(part=part, mine=mine) for name, it in _OF_PART.items()}
        always, new = {**_ALWAYS, "slots": _list(_NOTHING), "system": "''"}, _NOTHING
        prepared, further = (
            _PREPARED_OF.format(prepared=prepared, mine=mine),
            f"and datid in {mine}",
        )
    rows = _object(
        {
            name: _list(
                f"select to_jsonb(t) - 'datfrozenxid' - 'datminmxid'"  # noqa: S608
                f" from {name} t {where.format(logins=_LOGINS, names=_NAMES)}"
            )
            for name, where in conditions.items()
        }
    )
    look = {**_BEFORE, **always, "at": "clock_timestamp()"}
    now = {
        **always,
        "prepared": _list(prepared),
        "ended": "(select count(*) from ended)",
        "mark": _COUNTER,
    }
    looks = (look, {**look, "rows": rows})  # both with a parameter, so that they are planned once
    ending, written = _END_SESSIONS.format(further=further), {"rows": rows, "new": _list(new)}
    return (
        [f"with known as (select $1::jsonb) select {_object(it)}" for it in looks],
        [f"{ending} select {_object(it)}" for it in (now, {**now, **written})],
    )


# Kinds that DROP calls otherwise; catalogs that no DROP knows; and what is dropped last.
_CALLED: Final = {
    "composite type": "type",
    "foreign-data wrapper": "foreign data wrapper",
    "statistics object": "statistics",
}
_ONLY_ROWS: Final = ("pg_default_acl", "pg_parameter_acl", "pg_user_mapping")
_PASSES: Final = 3  # what is needed by something else goes after that
_LAST: Final = ("pg_database", "pg_tablespace", "pg_authid")


class Leftovers:
    """Clears what tests leave.

    Args:
        server: Connected to a database where no test works: what is planned there stays so, though
            schemas come and go; None where somebody else looks at what is the server's.
        inside: Connected to the database that tests share, if they share one.
        live: The schemas and databases of tests that run on the server now.
        lock: Guards those.
        part: Whose role and databases alone are looked at; empty where the server is one class's.
    """

    def __init__(
        self,
        server: Admin | None,
        inside: Admin | None,
        *,
        live: list[str],
        lock: ProcessLock,
        part: str = "",
    ) -> None:
        self._server = server
        self._inside = inside
        self._live = live
        self._lock = lock
        self._seen: tuple[str, Look] = ("", {})  # rows, and the snapshot in which they are those
        self._writes = True  # whether the test before has written something, as the next may
        self._look_queries, self._clear_queries = _queries(part)

    @contextlib.contextmanager
    def cleared(
        self, state: contextlib.AbstractContextManager[object], *, own: str
    ) -> Iterator[contextlib.ExitStack]:
        """Around a test and its state: nothing else of the test is left when the block ends.

        Args:
            state: The test's own schema, database or transaction.
            own: What that is called.

        Yields:
            Where to put more logins of the test; they are dropped when its sessions have ended.
        """
        with contextlib.ExitStack() as held:
            with self._lock.held():
                self._live.append(own)
            held.callback(self._live.remove, own)
            made: Look = {}
            try:
                with state, contextlib.ExitStack() as logins:
                    before = self._look()
                    try:
                        yield logins
                    finally:
                        held.enter_context(self._lock.held())
                        made = self._clear(before, own)
            finally:
                self._drop_made(made)

    def _look(self) -> Look:
        """What is there before a test; the rows are those of the last time, if they cannot differ.

        They are asked for again when a transaction has written something since.
        """
        if self._server is None:
            assert self._inside is not None  # noqa: S101 - for the type checker
            return dict(_asked(self._inside, f"select {_object(_BEFORE)}"))
        snapshot, rows = self._seen
        short, whole = self._look_queries
        known = {"names": self._live}
        if not self._writes:
            found = _asked(self._server, short, known)
            if found["snapshot"] == snapshot:
                return {**found, "rows": rows}
        return dict(_asked(self._server, whole, known))

    def _clear(self, before: Look, own: str) -> Look:
        """End sessions, drop what would keep the state from being dropped, restore settings.

        Returns:
            What tells what else there may be to drop, once the state is; empty if there is nothing.
        """
        others = [name for name in self._live if name != own]
        known = {name: before.get(name) for name in ("mark", "xid", "at")}
        known |= {"others": others, "names": [own, *others], "own": f"^{own}_[0-9]+$"}
        if self._server is None:
            return known
        now = self._end_sessions(self._server, before, known)
        new, wrote, numbered = now["new"], now["wrote"], now["numbered"]
        if self._inside and numbered:  # they may forbid to drop other things
            _drop_all(self._inside, _EVENT_TRIGGERS, known)
        if any(catalog == "pg_subscription" for catalog, _ in new):
            _drop_all(self._server, _SUBSCRIPTIONS, known)
        for gid, database in now["prepared"]:
            if database not in others:
                _tell("prepared transaction", gid)
                with contextlib.closing(self._server.elsewhere(database)) as admin:
                    admin.run(f"rollback prepared {literal(gid)}")  # it ends where it began
        for slot, database in now["slots"]:
            if [slot, database] not in before["slots"] and database not in others:
                _tell("replication slot", slot)
                self._server.run(_DROP_SLOT.format(slot=literal(slot)))
        if wrote:
            _restore(self._server, before["rows"], now["rows"])
        if before["system"] != now["system"]:
            _restore_system(self._server, before["system"])
        self._seen = now["snapshot"], before["rows"]
        return {**known, "of_server": new, "numbered": numbered} if wrote else {}

    def _end_sessions(self, server: Admin, before: Look, known: Look) -> Look:
        """End the test's sessions; what is there then, rows and objects if something was written.

        Whether that is so is asked first, where the test before had written nothing.
        """
        short, whole = self._clear_queries
        now = _asked(server, whole if self._writes else short, known)
        numbered = now["mark"] != before["mark"] + 1
        self._writes = wrote = now["snapshot"] != before["snapshot"]
        if wrote and "rows" not in now:
            now = _asked(server, whole, known)
        return {"new": [], **now, "wrote": wrote, "numbered": numbered}

    def _drop_made(self, known: Look) -> None:
        """Drop what the test has made and is still there."""
        if known and self._inside:
            _drop_all(
                self._inside, self._of_database if known.get("numbered", True) else _LARGE, known
            )
        if self._server and known.get("of_server"):
            _drop_all(self._server, _OF_SERVER, known)

    @locked_property
    def _of_database(self) -> str:
        """A query for what was numbered since the first look, in the database that tests share."""
        assert self._inside is not None  # noqa: S101 - for the type checker
        queries = [
            f"select '{name}' catalog, oid from {name} where oid > {_MARK}"  # noqa: S608
            for [name] in self._inside.run(_NUMBERED)
        ]
        return " union all ".join([*queries, _LARGE])


def _drop_all(admin: Admin, query: str, known: Look) -> None:
    query = f"""
        select coalesce(json_agg(json_build_array(catalog, made.oid::int8, kind, identity)), '[]')
        from ({query}) made,
            pg_identify_object(catalog::regclass, made.oid, 0) it(kind, schema, name, identity)
        where not exists (
            select from unnest({_OTHERS}) other
            where identity = other or strpos(identity, other || '.') > 0)
    """  # noqa: S608 - made of constants
    error = driver("psycopg", extra="postgres").Error
    for _ in range(_PASSES):
        found = _asked(admin, query, known)
        if not found:
            return
        found.sort(key=lambda row: (row[0] in _LAST and 1 + _LAST.index(row[0]), row[1]))
        for catalog, oid, kind, name in found:
            try:
                _drop(admin, catalog, oid, kind, name)
            except error:  # it is a part of another, and gone with that; or the next time
                continue
            _tell(kind, name)


def _drop(admin: Admin, catalog: str, oid: int, kind: str, name: str) -> None:
    statement = f"drop {_CALLED.get(kind, kind)} {name}"
    if catalog == _LARGE_OBJECTS:
        statement = f"select lo_unlink({oid})"
    elif catalog in _ONLY_ROWS:
        statement = f"delete from {catalog} where oid = {oid}"  # noqa: S608
    elif catalog == "pg_database":
        statement += " with (force)"
    elif catalog == "pg_subscription":  # the slot may be another server's, which nobody asks
        statement = f"alter {kind} {name} disable; alter {kind} {name} set (slot_name = none); "
        statement += f"drop {kind} {name}"
        for [database] in admin.run(_WHERE_SUBSCRIBED, [oid]):
            _run_in(admin.elsewhere(database), statement)
        return
    elif catalog == "pg_authid":
        owned = f"reassign owned by {name} to current_user; drop owned by {name}"
        for [database] in admin.run(_WHERE_OWNED, [oid]):
            _run_in(admin.elsewhere(database), owned)
        statement = f"{owned}; {statement}"
    elif catalog not in _LAST:
        statement += " cascade"
    admin.run(statement)


def _run_in(admin: Admin, statement: str) -> None:
    """Execute what works only there, whatever event triggers say of it."""
    with contextlib.closing(admin):
        enabled = admin.run(
            "select format('update pg_event_trigger set evtenabled = %L where oid = %s',"
            " evtenabled, oid) from pg_event_trigger where evtenabled <> 'D'"
        )
        if enabled:
            disable = "update pg_event_trigger set evtenabled = 'D'"
            statement = "; ".join([disable, statement, *(enable for [enable] in enabled)])
        admin.run(statement)


def _restore(admin: Admin, before: Look, now: Look) -> None:
    # Databases of tests come and go, and change their names; they are in neither, or in one.
    oids = {row["oid"] for row in now["pg_database"]}
    kept = [row for row in before["pg_database"] if row["oid"] in oids]
    oids = {row["oid"] for row in kept}
    before = {**before, "pg_database": kept}
    now = {**now, "pg_database": [row for row in now["pg_database"] if row["oid"] in oids]}
    for name in _ROWS:
        # Their order matters seldom, and sorting takes longer than the look itself.
        if before[name] != now[name] and _texts(before[name]) != _texts(now[name]):
            _restore_rows(admin, name, before[name])


def _restore_rows(admin: Admin, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Superusers may write to catalogs; nothing else restores a row, password and all."""
    _tell("settings in", name)
    wanted = f"""(select w.* from jsonb_populate_recordset(
        null::{name}, {literal(json.dumps(rows))}::jsonb) w)"""  # noqa: S608 - quoted
    missing = f"""insert into {name} select w.* from {wanted} w where not exists
        (select from {name} t where to_jsonb(t) = to_jsonb(w))"""  # noqa: S608
    if name in _LAST:  # never without its row, even for a moment: it may be our own
        columns = [column for row in rows[:1] for column in row if column != "oid"]
        change = f"""update {name} t set {", ".join(f"{c} = w.{c}" for c in columns)}
            from {wanted} w where w.oid = t.oid"""  # noqa: S608
        missing = missing if name == "pg_authid" else ""
    else:
        change = f"""delete from {name} t where not exists
            (select from {wanted} w where to_jsonb(w) = to_jsonb(t))"""  # noqa: S608
    admin.run(f"{change}; {missing}")


def _restore_system(admin: Admin, text: str) -> None:
    """Undo `alter system`; a line of the file is ``name = 'value'``."""
    _tell("settings of", "alter system")
    admin.run("alter system reset all")
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            admin.run(f"alter system set {line}")
    admin.run("select pg_reload_conf()")


def _asked(admin: Admin, query: str, known: Look | None = None) -> Any:
    """The value that a query gives, which may depend on what is known."""
    return json.loads(admin.ask(query, None if known is None else json.dumps(known)))


def _texts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def _tell(kind: str, name: str) -> None:
    """Log what a test left behind."""
    _log.info("a test left the %s %s behind; it goes", kind, name)
