"""`PostgresServer`: the options of `Postgres`, and how they start a server."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from orchestrator.probes import Call
from orchestrator.services import (
    postgres_init,
    postgres_memory,
    postgres_options,
    postgres_strict,
)
from orchestrator.services.postgres_protocol import asks_for_password
from orchestrator.services.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import sqlalchemy

    from orchestrator.probes import Probe

Isolation = Literal["schema", "database", "transaction", "none"]

_QUIET: Final = {"log_checkpoints": "off"}  # each clone is one; they say nothing of a test
# The defaults, 1 GB and 80 MB, are for disks.
_IN_MEMORY: Final = {"max_wal_size": "128MB", "min_wal_size": "32MB"}
# What a crash of the machine could lose is of no worth to a test. Killing the server loses nothing:
# what is committed was written, if not to the disk; with synchronous_commit=off it would not be.
_NOT_DURABLE: Final = {"fsync": "off", "full_page_writes": "off"}


class PostgresServer(Service):
    """What an image of the postgres family needs; a subclass says what a test can do with it."""

    lock_entry: ClassVar[str] = "postgres"
    container_port: ClassVar[int] = 5432
    client_modules: ClassVar[Sequence[str]] = (
        "psycopg",
        "sqlalchemy.dialects.postgresql.psycopg",
    )

    database: str = "test"
    username: str = "test"
    password: str | None = field(default=None, repr=False)
    settings: Mapping[str, str | float] = field(default_factory=dict)
    init: Sequence[str | Path] = ()
    isolation: Isolation = "schema"
    migrate: Callable[[sqlalchemy.Engine], object] | Any = None
    databases: Sequence[str] | Mapping[str, Any] = ()
    roles: Sequence[str] = ()
    extensions: Sequence[str] = ()
    durable: bool = False
    strict: bool = False

    def check_options(self) -> None:
        """Raise DeclarationError for a value that cannot work."""
        postgres_options.check(self)

    def server_capabilities(self) -> Sequence[str]:
        """What the entry point needs to give the data to the server's user, and to become it."""
        return ("CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID")

    def server_env(self) -> Mapping[str, str]:
        """The official image's contract."""
        return {
            "POSTGRES_USER": self.username,
            "POSTGRES_PASSWORD": self.password or "",
            "POSTGRES_DB": self.database,
            **({} if self.durable else {"POSTGRES_INITDB_ARGS": "--no-sync"}),
            **({"PGDATA": postgres_memory.DATA} if self.in_memory else {}),
        }

    def server_command(self) -> Sequence[str]:
        """Settings as arguments."""
        settings = {
            **_QUIET,
            **({} if self.durable else _NOT_DURABLE),
            **(_IN_MEMORY if self.in_memory else {}),
            **(postgres_strict.SETTINGS if self.strict else {}),
            **self.settings,
        }
        return [
            word
            for name, value in settings.items()
            for word in ("-c", f"{name}={postgres_options.setting(value)}")
        ]

    def server_files(self) -> Mapping[str, bytes]:
        """The init files."""
        return postgres_init.server_files(self)

    def server_tmpfs(self) -> Mapping[str, str]:
        """The memory that holds the data."""
        return {postgres_memory.MEMORY: "mode=1777"} if self.in_memory else {}

    def server_links(self) -> Mapping[str, str]:
        """The data are in the memory, until they are saved."""
        return {postgres_memory.DATA: postgres_memory.MEMORY} if self.in_memory else {}

    def readiness(self) -> Probe:
        """It asks for a password over TCP; the temporary server of the first start cannot."""
        return Call(asks_for_password)

    def why_ended(self) -> str:
        """The init file and its line, or the server's last words."""
        return postgres_init.why_ended(self, self.logs())

    @property
    def in_memory(self) -> bool:
        """Whether the data are in memory: files there would count towards a limit of it."""
        return not self.durable and self.memory is None and "PGDATA" not in self.env

    @property
    def clones(self) -> bool:
        """Whether tests get a clone of the database."""
        carries = self.migrate is not None or bool(self.init)
        return self.isolation == "database" or (self.isolation == "schema" and carries)
