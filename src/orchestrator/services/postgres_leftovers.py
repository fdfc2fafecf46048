"""What a test left on the server beside its own schema or database, and how it goes away.

A look before the test and one after it tell what came: sessions, prepared transactions, replication
slots, databases, roles, and settings of roles, databases and the whole system. The next test meets
none of it.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

from orchestrator.services.postgres_admin import APPLICATION, Admin, literal, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.services.postgres import Postgres

    Sight = Mapping[str, Any]

_log: Final = logging.getLogger("orchestrator.postgres")

# Catalogs of which every row is put back as it was: what `alter role`, `alter database` and `grant`
# have changed.
_CATALOGS: Final = ("pg_authid", "pg_auth_members", "pg_db_role_setting")


def as_list(query: str) -> str:
    """SQL for the one column of a query as a JSON array."""
    return f"(select coalesce(json_agg(item), '[]') from ({query}) found(item))"  # noqa: S608


_ROWS: Final = ", ".join(
    f"'{name}', {as_list(f'select to_jsonb(t) from {name} t')}"  # noqa: S608 - constants
    for name in _CATALOGS
)
_LOOK: Final = f"""
    select json_build_object(
        'at', clock_timestamp(),
        'databases', {as_list("select datname from pg_database")},
        'prepared', {as_list("select json_build_array(gid, database) from pg_prepared_xacts")},
        'slots', {as_list("select slot_name from pg_replication_slots")},
        'system', pg_read_file('postgresql.auto.conf'),
        {_ROWS}
    )
"""  # noqa: S608 - made of constants
# Sessions of the test's own clients, and others that began since and still do something or hold
# something. An idle one may be in a pool of the class's that is needed again.
_END_SESSIONS: Final = """
    select count(pg_terminate_backend(pid)) from pg_stat_activity
    where application_name <> %s and backend_type in ('client backend', 'walsender')
      and (application_name = %s or backend_start >= %s
           and (state <> 'idle' or pid in (select pid from pg_locks)))
"""


def look(service: Postgres) -> Sight:
    """See what is on the server now."""
    [[seen]] = service.admin.run(_LOOK)
    sight: Sight = seen
    return sight


def end_sessions(service: Postgres, *, test: str, since: Sight) -> None:
    """End what the test's clients still do: open transactions, long queries, locks."""
    service.admin.run(_END_SESSIONS, [APPLICATION, test, since["at"]])


def let_go(service: Postgres, *, before: Sight, now: Sight) -> None:
    """Drop what would keep a schema or a database from being dropped."""
    for gid, database in new_items(before["prepared"], now["prepared"]):
        tell("prepared transaction", gid)
        admin = Admin(service, database=database)  # it ends only where it began
        try:
            admin.run(f"rollback prepared {literal(gid)}")
        finally:
            admin.close()
    for slot in new_items(before["slots"], now["slots"]):
        tell("replication slot", slot)
        service.admin.run("select pg_drop_replication_slot(%s)", [slot])


def put_back(service: Postgres, *, before: Sight, now: Sight, own: str) -> None:
    """Drop the rest of what came, and restore what was changed.

    Args:
        service: The class's handle.
        before: What was there before the test.
        now: What was there after it.
        own: The test's own database, which is dropped already.
    """
    for database in new_items([*before["databases"], own], now["databases"]):
        tell("database", database)
        service.admin.run(f"drop database if exists {quoted(database)} with (force)")
    known = {row["oid"] for row in before["pg_authid"]}
    for role in (row["rolname"] for row in now["pg_authid"] if row["oid"] not in known):
        tell("role", role)
        service.admin.run(f"drop owned by {quoted(role)} cascade; drop role {quoted(role)}")
    for name in _CATALOGS:
        if _texts(before[name]) != _texts(now[name]):
            _put_back_catalog(service, name, before[name])
    if before["system"] != now["system"]:
        _put_back_system(service, before["system"])


def _put_back_catalog(service: Postgres, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
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
    service.admin.run(
        f"""{change};
            insert into {name} select w.* from {wanted} w where not exists
                (select from {name} t where to_jsonb(t) = to_jsonb(w))"""  # noqa: S608
    )


def _put_back_system(service: Postgres, text: str) -> None:
    """Undo `alter system`; a line of the file is ``name = 'value'``."""
    tell("settings of", "alter system")
    service.admin.run("alter system reset all")
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            service.admin.run(f"alter system set {line}")
    service.admin.run("select pg_reload_conf()")


def new_items(before: Sequence[Any], now: Sequence[Any]) -> list[Any]:
    """What is there now and was not before."""
    return [item for item in now if item not in before]


def tell(kind: str, name: str) -> None:
    """Log what a test left behind."""
    _log.info("a test left the %s %s behind; it goes", kind, name)


def _texts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)
