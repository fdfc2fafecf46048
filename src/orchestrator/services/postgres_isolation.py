"""Clean state for each test: a schema, or a clone of the class's database.

Whatever the test left open on the server is ended before its state is dropped: connections that
began during the test and still work, wait in a transaction or hold a lock.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import ServiceError
from orchestrator.services.drivers import driver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import psycopg

    from orchestrator.services.postgres import Postgres

_FILE_COPY_SINCE: Final = 15
_LEFTOVERS: Final = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()
      and backend_type = 'client backend' and backend_start >= %s
      and (state <> 'idle' or pid in (select pid from pg_locks))
"""
_IDLE_IN: Final = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = %s and pid <> pg_backend_pid() and state = 'idle'
"""
_USERS_OF: Final = """
    select count(*), min(coalesce(nullif(application_name, ''), 'unnamed')), min(query)
    from pg_stat_activity where datname = %s and pid <> pg_backend_pid()
"""


def isolation(service: Postgres) -> contextlib.AbstractContextManager[Mapping[str, Any]]:
    """What the test's handle has otherwise than the class's; dropped when the block ends."""
    if service.isolation == "none":
        return contextlib.nullcontext({})
    return _clone(service) if service.clones else _schema(service)


@contextlib.contextmanager
def _schema(service: Postgres) -> Iterator[Mapping[str, Any]]:
    name = f"test_{os.urandom(6).hex()}"
    admin = service.admin
    [began] = admin.execute("select clock_timestamp()").fetchone() or (None,)
    admin.execute(f'create schema "{name}"')
    try:
        yield {"_schema": name}
    finally:
        admin.execute(_LEFTOVERS, [began])
        admin.execute(f'drop schema "{name}" cascade')


@contextlib.contextmanager
def _clone(service: Postgres) -> Iterator[Mapping[str, Any]]:
    name = f"test_{os.urandom(6).hex()}"
    admin = service.admin
    _create_clone(admin, name, service=service)
    try:
        yield {"database": name}
    finally:
        admin.execute(f'drop database "{name}" with (force)')


def _create_clone(admin: psycopg.Connection[Any], name: str, *, service: Postgres) -> None:
    # Copying files beats replaying them as WAL, except when each must reach the disk.
    files = not service.durable and admin.info.server_version // 10000 >= _FILE_COPY_SINCE
    template = service.database.replace('"', '""')
    statement = f'create database "{name}" template "{template}"'
    statement += " strategy file_copy" if files else ""
    in_use = driver("psycopg.errors", extra="postgres").ObjectInUse
    try:
        admin.execute(statement)
    except in_use:
        admin.execute(_IDLE_IN, [service.database])
        try:
            admin.execute(statement)
        except in_use as error:
            raise _in_use(admin, service) from error


def _in_use(admin: psycopg.Connection[Any], service: Postgres) -> ServiceError:
    count, application, query = admin.execute(_USERS_OF, [service.database]).fetchone() or (
        0,
        "",
        "",
    )
    return ServiceError(
        f"{service.alias}: the class's database {service.database!r} cannot be cloned for the test "
        f"while {count} connection(s) work in it (application {application}, query {query!r}). "
        "End what setUpClass began there: commit, or close the connection.",
        service=service.alias,
    )
