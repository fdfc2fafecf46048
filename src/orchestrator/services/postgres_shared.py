"""What a test left in a database that tests share, outside of its own schema; and how it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.services.postgres_admin import quoted
from orchestrator.services.postgres_leftovers import as_list, new_items, tell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.services.postgres import Postgres

    Inside = Mapping[str, Sequence[str]]

_OURS: Final = "oid >= 16384"  # what the server came with has lower numbers
_RELATIONS: Final = f"""
    select oid::regclass from pg_class
    where {_OURS} and relpersistence <> 't' and not relispartition and relkind
"""  # noqa: S608 - made of constants
# Kinds of objects, in the order in which they go, and how to list them.
_NAMED: Final = {
    "event trigger": "select evtname from pg_event_trigger",
    "publication": "select pubname from pg_publication",
    "extension": "select extname from pg_extension",
    "server": "select srvname from pg_foreign_server",
    "schema": "select nspname from pg_namespace where nspname !~ '^pg_'",
}
_QUALIFIED: Final = {
    "view": f"{_RELATIONS} = 'v'",
    "materialized view": f"{_RELATIONS} = 'm'",
    "foreign table": f"{_RELATIONS} = 'f'",
    "table": f"{_RELATIONS} in ('r', 'p')",
    "sequence": f"{_RELATIONS} = 'S'",
    "routine": f"select oid::regprocedure from pg_proc where {_OURS}",  # noqa: S608
    "type": f"select oid::regtype from pg_type where {_OURS} and typtype in ('e', 'd', 'r')",  # noqa: S608
}
_KINDS: Final = {**_NAMED, **_QUALIFIED}
_LOOK: Final = (
    "select json_build_object("
    + ", ".join(f"'{kind}', {as_list(query)}" for kind, query in _KINDS.items())
    + ")"
)


def look_inside(service: Postgres) -> Inside:
    """See what is in the class's database now."""
    [[seen]] = service.admin.run(_LOOK)
    inside: Inside = seen
    return inside


def put_back_inside(service: Postgres, *, before: Inside) -> None:
    """Drop what came."""
    now = look_inside(service)
    for kind in _KINDS:
        for name in new_items(before[kind], now[kind]):
            tell(kind, name)
            shown = quoted(name) if kind in _NAMED else name
            service.admin.run(f"drop {kind} if exists {shown} cascade")
