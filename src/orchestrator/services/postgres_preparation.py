"""What a class's server gets before the first test, and what it tells of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.errors import ServiceError
from orchestrator.services import postgres_migrations
from orchestrator.services.drivers import driver
from orchestrator.services.postgres_admin import Admin, literal, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.services.postgres import Postgres


def prepare(service: Postgres) -> None:
    """Make roles, databases and extensions, and run the migrations."""
    if not any((service.roles, service.databases, service.extensions, service.migrate)):
        return
    admin = Admin(service, database=service.database)
    try:
        _make_roles(service, admin)
        for database in service.databases:
            if not admin.run("select from pg_database where datname = %s", [database]):
                admin.run(f"create database {quoted(database)}")
    finally:
        admin.close()
    for handle in (service, *map(service.in_database, service.databases)):
        _make_extensions(handle)
        if handle.migrate is not None:
            postgres_migrations.run(handle.migrate, service=handle)


def server_info(service: Postgres) -> Mapping[str, Any]:
    """Version, changed settings, and where the handle's connections end."""
    [[version, settings]] = service.of_class.admin.run("""
        select version(), coalesce(string_agg(name || '=' || current_setting(name), ' '), '')
        from pg_settings where source = 'command line' or sourcefile like '%%auto.conf'
    """)
    where = {"database": service.database, "schema": service.schema, "isolation": service.isolation}
    return {"server": version, "settings": settings, **where}


def _make_roles(service: Postgres, admin: Admin) -> None:
    for role in service.roles:
        password = service.as_role(role).password or ""
        exists = admin.run("select from pg_roles where rolname = %s", [role])
        verifier = admin.verifier(password)  # the statement may be logged
        admin.run(
            f"{'alter' if exists else 'create'} role {quoted(role)} login "
            f"password {literal(verifier)}"
        )


def _make_extensions(service: Postgres) -> None:
    if not service.extensions:
        return
    errors = driver("psycopg.errors", extra="postgres")
    admin = Admin(service, database=service.database)
    try:
        for extension in service.extensions:
            try:
                admin.run(f"create extension if not exists {quoted(extension)} cascade")
            except errors.Error as error:
                names = admin.run("select name from pg_available_extensions order by 1")
                raise ServiceError(
                    f"{service.alias}: the extension {extension!r} cannot be created: "
                    f"{_first_line(error)}. The image has {', '.join(name for [name] in names)}.",
                    service=service.alias,
                ) from error
    finally:
        admin.close()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
