"""A room in memory for the clones of tests: making one there takes a fraction of the time.

Each clone is hundreds of small files, and a disk that is busy with others makes them wait. But what
is in memory goes when the container stops, so before a test kills or restarts the server, its
clones move to the disk: what it committed is there afterwards.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from orchestrator.errors import ServiceError
from orchestrator.services.drivers import driver
from orchestrator.services.postgres_admin import literal, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.services.postgres import Postgres

_log: Final = logging.getLogger("orchestrator.postgres")

_MOUNT: Final = "/orchestrator"
_FOLDER: Final = f"{_MOUNT}/clones"
_NAME: Final = "orchestrator_memory"
_LARGEST: Final = 128 << 20  # bytes; what is larger is copied at the speed of a disk anyway


def mounts(service: Postgres) -> Mapping[str, str]:
    """What to mount into the container: nothing when clones belong on the disk.

    That is when commits must reach it, and when the container's memory is limited, as files in
    memory count towards the limit.
    """
    wanted = service.may_clone and not service.durable and service.memory is None
    return {_MOUNT: "mode=1777"} if wanted else {}


@dataclass(eq=False)
class Room:
    """The tablespace in memory of one server.

    Attributes:
        usable: Whether it is there; None when that is not known yet.
        clones: What is in it.
    """

    usable: bool | None = None
    clones: set[str] = field(default_factory=set)

    def clause(self, service: Postgres, *, clone: str) -> str:
        """What to add to ``create database``."""
        if self.usable is None:
            self.usable = _make(service)
        if self.usable:
            self.clones.add(clone)
        return f"tablespace {_NAME}" if self.usable else ""

    def dropped(self, clone: str) -> None:
        """Forget a clone."""
        self.clones.discard(clone)

    def to_disk(self, service: Postgres) -> None:
        """Move the clones to the disk, from within the container: a partition does not matter.

        Raises:
            ServiceError: They cannot be moved.
        """
        state = service.state()
        if state is None or state.status != "running":
            return
        for clone in sorted(self.clones):
            _move(service, clone)
        self.clones.clear()
        self.usable = None  # what comes back after a stop is empty


def _make(service: Postgres) -> bool:
    admin = service.admin
    if not mounts(service):
        return False
    [[size]] = admin.run("select pg_database_size(%s)", [service.database])
    if size > _LARGEST:
        return False
    if admin.run("select from pg_tablespace where spcname = %s", [_NAME]):
        # Of the time before a restart, on which Docker forgets the mode of the mount.
        admin.run(f"drop tablespace {_NAME}")
        service.exec(["chmod", "1777", _MOUNT])
    try:
        # The server's own user must own the folder, and only the server acts as that user.
        admin.run(f"copy (select '') to program 'rm -rf {_FOLDER} && mkdir {_FOLDER}'")
        admin.run(f"create tablespace {_NAME} location '{_FOLDER}'")
    except driver("psycopg", extra="postgres").Error as error:
        _log.info("%s: no room in memory, so clones are on the disk: %s", service.alias, error)
        return False
    return True


def _move(service: Postgres, clone: str) -> None:
    name = quoted(clone)
    statements = (
        f"alter database {name} allow_connections false",
        f"select pg_terminate_backend(pid) from pg_stat_activity where datname = {literal(clone)}",  # noqa: S608
        f"alter database {name} set tablespace pg_default",
        f"alter database {name} allow_connections true",
    )
    of_class = service.of_class
    result = service.running.engine.exec(
        service.running.container,
        [
            *("psql", "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1"),
            *("-U", of_class.username, "-d", "template1"),
            *(word for statement in statements for word in ("-c", statement)),
        ],
        env={"PGPASSWORD": of_class.password or ""},
    )
    if result.exit_code != 0:
        raise ServiceError(
            f"{service.alias}: the test's database cannot be moved to the disk before the server "
            f"stops: {service.masked(result.output.strip())}",
            service=service.alias,
        )
