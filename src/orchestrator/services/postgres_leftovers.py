"""How what a test left on the server, beside its own schema or database, goes away.

A look before the test and one after it tell what came: prepared transactions, replication slots,
databases, roles, settings of roles, databases and the whole system; and, in a database that tests
share, what stands outside of the test's schema. The next test meets none of it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestrator.services.postgres_admin import Admin, literal, quoted
from orchestrator.services.postgres_sight import CATALOGS, NAMED, QUALIFIED, new_items, tell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.services.postgres import Postgres
    from orchestrator.services.postgres_sight import Sight


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
        own: The test's own schema or database, which is dropped already.
    """
    if "inside" in before:
        _put_back_inside(service, before["inside"], now["inside"], own)
    for database in new_items([*before["databases"], own], now["databases"]):
        tell("database", database)
        service.admin.run(f"drop database if exists {quoted(database)} with (force)")
    known = {row["oid"] for row in before["pg_authid"]}
    for role in (row["rolname"] for row in now["pg_authid"] if row["oid"] not in known):
        tell("role", role)
        service.admin.run(f"drop owned by {quoted(role)} cascade; drop role {quoted(role)}")
    for name in CATALOGS:
        # Their order matters seldom, and sorting takes longer than the look itself.
        if before[name] != now[name] and _texts(before[name]) != _texts(now[name]):
            _put_back_catalog(service, name, before[name])
    if before["system"] != now["system"]:
        _put_back_system(service, before["system"])


def _put_back_inside(
    service: Postgres,
    before: Mapping[str, Sequence[str]],
    now: Mapping[str, Sequence[str]],
    own: str,
) -> None:
    for kind in (*NAMED, *QUALIFIED):
        for name in new_items(before[kind], now[kind]):
            if name != own and not name.startswith(f"{own}."):
                tell(kind, name)
                shown = quoted(name) if kind in NAMED else name
                service.admin.run(f"drop {kind} if exists {shown} cascade")


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


def _texts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)
