"""What is on a server at one moment, so that it can be compared with another."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from orchestrator.services.postgres_admin import APPLICATION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.services.postgres import Postgres

    Sight = Mapping[str, Any]

_log: Final = logging.getLogger("orchestrator.postgres")

CATALOGS: Final = ("pg_authid", "pg_auth_members", "pg_db_role_setting")
"""Of these every row is put back as it was: what `alter role`, `alter database`, `grant` change."""
_OURS: Final = "oid >= 16384"  # what the server came with has lower numbers
# Of the server's own roles only the first superuser can be altered.
_ALTERABLE: Final = {"pg_authid": f"where {_OURS} or oid = 10"}
_RELATIONS: Final = f"""
    select oid::regclass from pg_class
    where {_OURS} and relpersistence <> 't' and not relispartition and relkind
"""  # noqa: S608 - made of constants
NAMED: Final = {
    "event trigger": "select evtname from pg_event_trigger",
    "publication": "select pubname from pg_publication",
    "extension": "select extname from pg_extension",
    "server": "select srvname from pg_foreign_server",
    "schema": "select nspname from pg_namespace where nspname !~ '^pg_'",
}
"""Kinds of objects in a database, and how to list their names."""
QUALIFIED: Final = {
    "view": f"{_RELATIONS} = 'v'",
    "materialized view": f"{_RELATIONS} = 'm'",
    "foreign table": f"{_RELATIONS} = 'f'",
    "table": f"{_RELATIONS} in ('r', 'p')",
    "sequence": f"{_RELATIONS} = 'S'",
    "routine": f"select oid::regprocedure from pg_proc where {_OURS}",  # noqa: S608
    "type": f"select oid::regtype from pg_type where {_OURS} and typtype in ('e', 'd', 'r')",  # noqa: S608
}
"""Kinds of objects in schemas, and how to list their names as SQL takes them."""


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
        for name in CATALOGS
    },
}
_INSIDE: Final = {
    "inside": _object({kind: _list(query) for kind, query in {**NAMED, **QUALIFIED}.items()})
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


_LOOK: Final = {
    True: f"select {_object(_SERVER)}",
    False: f"select {_object({**_SERVER, **_INSIDE})}",
}
_ENDED: Final = {"ended": "(select count(*) from ended)"}
_LOOK_AFTER: Final = {
    True: f"{_END_SESSIONS} select {_object({**_ENDED, **_SERVER})}",
    False: f"{_END_SESSIONS} select {_object({**_ENDED, **_SERVER, **_INSIDE})}",
}


def look(service: Postgres) -> Sight:
    """See what is on the server now; in its database too, if tests share that."""
    [[sight]] = service.admin.run(_LOOK[service.clones])
    return sight  # type: ignore[no-any-return]


def end_sessions(service: Postgres, *, test: str, since: Sight) -> Sight:
    """End what the test's clients still do: open transactions, long queries, locks.

    Returns:
        What is on the server now.
    """
    [[sight]] = service.admin.run(_LOOK_AFTER[service.clones], [test, since["at"]])
    return sight  # type: ignore[no-any-return]


def new_items(before: Sequence[Any], now: Sequence[Any]) -> list[Any]:
    """What is there now and was not before."""
    return [item for item in now if item not in before]


def tell(kind: str, name: str) -> None:
    """Log what a test left behind."""
    _log.info("a test left the %s %s behind; it goes", kind, name)
