"""What the values of a `Postgres` declaration must look like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DeclarationError
from orchestrator.services import options, postgres_migrations
from orchestrator.services.postgres_strict import UNSETTABLE

if TYPE_CHECKING:
    from orchestrator.services.postgres_server import PostgresServer

ISOLATIONS: Final = ("schema", "database", "transaction", "none")
INIT_SUFFIXES: Final = (".sql", ".sql.gz", ".sh")
# Others rely on where the server listens and keeps its data. Names have no case.
_OURS: Final = ("port", "listen_addresses", "unix_socket_directories", "data_directory")
_SETTING: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?")


def check(service: PostgresServer) -> None:
    """Raise DeclarationError for a value that cannot work."""
    options.choice(service, "isolation", service.isolation, ISOLATIONS)
    _check_settings(service)
    options.check_password(service, service.password)
    if service.password is not None and "\n" in service.password:
        # initdb reads it from a file, to the end of the line.
        raise DeclarationError("Postgres(password=…) cannot be used: expected text of one line")
    for option in ("database", "username"):
        options.check_identifier(service, option, getattr(service, option))
    postgres_migrations.check(service.migrate, option="migrate")
    for option in ("durable", "strict"):
        options.check_flag(service, option, getattr(service, option))
    _check_init(service)
    for option in ("extensions", "roles"):
        _check_names(service, option, getattr(service, option))
    _check_databases(service)
    if service.strict:
        _check_strict(service)


def setting(value: str | float) -> str:
    """A setting's value as the server reads it."""
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _check_settings(service: PostgresServer) -> None:
    good = isinstance(service.settings, Mapping) and all(
        isinstance(name, str)
        and _SETTING.fullmatch(name)
        and isinstance(value, (str, int, float))
        and "\0" not in str(value)
        for name, value in service.settings.items()
    )
    options.check(service, "settings", good, "a mapping of a setting's name to its value")
    for name in service.settings:
        if name.lower() in _OURS:
            raise DeclarationError(
                f"Postgres(settings=…) cannot set {name!r}: the service relies on its own value"
            )


def _check_strict(service: PostgresServer) -> None:
    if service.isolation == "none":
        raise DeclarationError(
            "Postgres(strict=True) needs isolation: with isolation='none' tests share everything"
        )
    for name in UNSETTABLE:
        if name in service.settings:
            raise DeclarationError(
                f"Postgres(strict=True) reads the server's log, so settings= cannot have {name!r}"
            )


def _check_init(service: PostgresServer) -> None:
    files = service.init
    good = isinstance(files, Sequence) and not isinstance(files, (str, bytes))
    good = good and all(isinstance(file, (str, Path)) for file in files)
    options.check(service, "init", good, "a list of files")
    for file in files:
        if not str(file).endswith(INIT_SUFFIXES):
            raise DeclarationError(
                f"Postgres(init=…) cannot run {str(file)!r}: expected a name that ends in "
                f"{', '.join(INIT_SUFFIXES)}"
            )


def _check_databases(service: PostgresServer) -> None:
    databases = service.databases
    if isinstance(databases, Mapping):
        for name, migrate in databases.items():
            postgres_migrations.check(migrate, option=f"databases[{name!r}]")
    _check_names(
        service, "databases", list(databases) if isinstance(databases, Mapping) else databases
    )
    options.check(
        service, "databases", service.database not in databases, "databases beside `database`"
    )


def _check_names(service: PostgresServer, option: str, names: object) -> None:
    good = isinstance(names, Sequence) and not isinstance(names, (str, bytes))
    if good:
        assert isinstance(names, Sequence)  # noqa: S101 - for the type checker
        good = all(options.is_identifier(name) for name in names) and len(set(names)) == len(names)
    options.check(service, option, good, "a list of different names of 1 to 63 bytes")
