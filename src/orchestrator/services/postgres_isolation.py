"""Clean state for each test: a schema, a clone of the class's database, or a transaction."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import ServiceError
from orchestrator.services.drivers import driver
from orchestrator.services.postgres_admin import quoted
from orchestrator.services.postgres_leftovers import let_go, put_back
from orchestrator.services.postgres_sight import end_sessions, look
from orchestrator.services.postgres_strict import fenced
from orchestrator.services.postgres_transaction import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.services.postgres import Postgres
    from orchestrator.services.postgres_sight import Sight

    Changes = Mapping[str, Any]
    State = contextlib.AbstractContextManager[Changes]

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


def name_of(test: str) -> str:
    """What a test's schema or database is called: a plain name, recognisable in logs."""
    plain = re.sub(r"[^a-z0-9_]", "_", test.lower())
    return f"{'' if plain.startswith('test') else 'test_'}{plain}"[-_NAME_LENGTH:]


@contextlib.contextmanager
def isolation(service: Postgres, *, test: str, name: str) -> Iterator[Changes]:
    """What the test's handle has otherwise than the class's; gone when the block ends.

    Args:
        service: The class's handle.
        test: The test, as `name_of` tells it.
        name: What its schema or database is called.
    """
    if service.isolation == "none":
        yield {}
        return
    state = _STATES["database" if service.clones else service.isolation]
    fence = fenced(service, test=test) if service.strict else contextlib.nullcontext()
    before = look(service)
    after: Sight | None = None
    try:
        with state(service, name) as changes, fence:
            try:
                yield changes
            finally:
                after = end_sessions(service, test=test, since=before)
                let_go(service, before=before, now=after)
    finally:
        if after is not None:
            put_back(service, before=before, now=after, own=name)


@contextlib.contextmanager
def _schema(service: Postgres, name: str) -> Iterator[Changes]:
    admin = service.admin
    roles = ", ".join(map(quoted, service.roles))
    owner = f"authorization {name}" if service.strict else ""
    admin.run(f"create schema if not exists {name} {owner}")
    if roles:
        admin.run(f"grant usage on schema {name} to {roles}")
    try:
        yield {"_schema": name}
    finally:
        admin.run(f"drop schema if exists {name} cascade")


@contextlib.contextmanager
def _clone(service: Postgres, name: str) -> Iterator[Changes]:
    _create_clone(service, name)
    try:
        yield {"database": name}
    finally:
        service.admin.run(f"drop database if exists {name} with (force)")


def _create_clone(service: Postgres, name: str) -> None:
    admin = service.admin
    # Copying files beats replaying them as WAL, except when each must reach the disk.
    files = not service.durable and admin.major >= _FILE_COPY_SINCE
    statement = f"create database {name} template {quoted(service.database)}"
    statement += " strategy file_copy" if files else ""
    in_use = driver("psycopg.errors", extra="postgres").ObjectInUse
    try:
        admin.run(statement)
    except in_use:
        admin.run(_END_IDLE, [service.database])
        try:
            admin.run(statement)
        except in_use as error:
            raise _in_use(service) from error


def _in_use(service: Postgres) -> ServiceError:
    [(count, application, query)] = service.admin.run(_USERS_OF, [service.database])
    return ServiceError(
        f"{service.alias}: the class's database {service.database!r} cannot be cloned for the test "
        f"while {count} connection(s) work in it (application {application}, query {query!r}). "
        "End what setUpClass began there: commit, or close the connection.",
        service=service.alias,
    )


_STATES: Final[Mapping[str, Callable[[Postgres, str], State]]] = {
    "schema": _schema,
    "database": _clone,
    "transaction": transaction,
}
