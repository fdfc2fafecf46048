"""A room in memory for the clones of tests: making one there takes a fraction of the time.

A clone is hundreds of small files, and a disk that is busy with others makes them wait. But memory
is emptied when the container stops. So before a test kills or restarts the server, its clones go to
the disk, and what it committed is there afterwards, as if they had been there all the time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from orchestrator.errors import ServiceError
from orchestrator.services.drivers import driver
from orchestrator.services.postgres_admin import literal, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.engine.port import ExecResult
    from orchestrator.services.postgres import Postgres
    from orchestrator.services.postgres_server import PostgresServer

_log: Final = logging.getLogger("orchestrator.postgres")

_MOUNT: Final = "/orchestrator"
_USER: Final = "postgres"
_LARGEST: Final = 128 << 20  # bytes; what is larger is copied at the speed of a disk anyway
# The server's user must own the folder, and the server acts as that user.
_MAKE_FOLDER: Final = f'test "$(id -un)" = {_USER} && mkdir -p %s'
_WHERE: Final = """
    select current_setting('data_directory'), oid from pg_tablespace where spcname = %s
"""
# The server's processes stop, so that what is copied is what a crash at this moment leaves. What
# was committed since the last checkpoint is in the WAL, on the disk. kill(2): -1 spares the caller.
_COPY: Final = 'kill -STOP -1; cp -a "$1" "$2" && ln -sfn "$2" "$3"'


def mounts(service: PostgresServer) -> Mapping[str, str]:
    """What to mount into the container: nothing when clones belong on the disk.

    That is when commits must reach it, and when the container's memory is limited, as files in
    memory count towards the limit.
    """
    wanted = service.may_clone and not service.durable and service.memory is None
    return {_MOUNT: "mode=1777"} if wanted else {}


def gone(service: Postgres, clones: Sequence[str]) -> ServiceError:
    """The error for clones that nobody could save."""
    return ServiceError(
        f"{service.alias} had ended by itself, and with it went the test's database "
        f"({', '.join(clones)}), which was in memory. End the server with kill(), or declare "
        "durable=True, which keeps databases on the disk.",
        service=service.alias,
    )


@dataclass(eq=False)
class Room:
    """The tablespace in memory of one server.

    Attributes:
        usable: Whether it is there; None when that is not known yet.
        clones: What is in it.
        number: Of how many; each restart leaves one behind on the disk, and a new one is made.
        data: The server's data directory.
        link: By what link in there the server finds the tablespace.
    """

    usable: bool | None = None
    clones: set[str] = field(default_factory=set)
    number: int = 1
    data: str = ""
    link: str = ""

    def clause(self, service: Postgres, *, clone: str) -> str:
        """What to add to ``create database``."""
        if self.usable is None:
            self.usable = self._make(service)
        if self.usable:
            self.clones.add(clone)
        return f"tablespace {self.name}" if self.usable else ""

    def dropped(self, clone: str) -> None:
        """Forget a clone."""
        self.clones.discard(clone)

    def to_disk(self, service: Postgres, *, crash: bool) -> Sequence[str]:
        """Bring the clones to the disk, from within the container: a partition does not matter.

        Args:
            service: The class's or the test's handle.
            crash: Whether the server is about to be killed; it does nothing more then.

        Returns:
            Those that cannot be brought there any more, as the server ended by itself.

        Raises:
            ServiceError: They cannot be copied.
        """
        clones = sorted(self.clones)
        self.clones.clear()
        self.usable = None  # memory is emptied
        state = service.state()
        if state is None or state.ended:
            return clones
        if clones and state.status == "paused":
            service.running.engine.unpause_container(service.running.container)
        if clones and crash:
            script = ["sh", "-c", _COPY, "sh", self._folder, f"{self.data}/{self.name}", self.link]
            _check(service, _exec(service, script))
        elif clones:
            for clone in clones:
                _check(service, _psql(service, _moving(clone)))
        return []

    def _make(self, service: Postgres) -> bool:
        admin = service.admin
        if not mounts(service):
            return False
        [[size]] = admin.run("select pg_database_size(%s)", [service.database])
        if size > _LARGEST:
            return False
        try:
            if admin.run(_WHERE, [self.name]):  # of the time before a restart
                self.number += 1
                _open(service)
            self._make_folder(service)
            admin.run(f"create tablespace {self.name} location '{self._folder}'")
            [(self.data, oid)] = admin.run(_WHERE, [self.name])
        except driver("psycopg", extra="postgres").Error as error:
            _log.info("%s: no room in memory, so clones are on the disk: %s", service.alias, error)
            return False
        self.link = f"{self.data}/pg_tblspc/{oid}"
        return True

    def _make_folder(self, service: Postgres) -> None:
        statement = f"copy (select '') to program {literal(_MAKE_FOLDER % self._folder)}"
        try:
            service.admin.run(statement)
        except driver("psycopg", extra="postgres").errors.ExternalRoutineException:
            _open(service)
            service.admin.run(statement)

    @property
    def name(self) -> str:
        """What the server calls it."""
        return f"orchestrator_memory_{self.number}"

    @property
    def _folder(self) -> str:
        return f"{_MOUNT}/{self.name}"


def _open(service: Postgres) -> None:
    """Give the mount its mode again: Docker forgets it when the container starts again."""
    done = service.exec(["chmod", "1777", _MOUNT])
    if done.exit_code != 0:
        _log.warning("%s: chmod of %s: %s", service.alias, _MOUNT, done.output)


def _moving(clone: str) -> Sequence[str]:
    name = quoted(clone)
    return (
        f"alter database {name} allow_connections false",
        f"select pg_terminate_backend(pid) from pg_stat_activity where datname = {literal(clone)}",  # noqa: S608
        f"alter database {name} set tablespace pg_default",
        f"alter database {name} allow_connections true",
    )


def _psql(service: Postgres, statements: Sequence[str]) -> ExecResult:
    of_class = service.of_class
    argv = ["psql", "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1"]
    argv += ["-U", of_class.username, "-d", "template1"]
    argv += [word for statement in statements for word in ("-c", statement)]
    return _exec(service, argv, env={"PGPASSWORD": of_class.password or ""})


def _exec(
    service: Postgres, argv: Sequence[str], *, env: Mapping[str, str] | None = None
) -> ExecResult:
    return service.running.engine.exec(service.running.container, argv, env=env, user=_USER)


def _check(service: Postgres, result: ExecResult) -> None:
    if result.exit_code != 0:
        raise ServiceError(
            f"{service.alias}: the test's database cannot be copied to the disk before the server "
            f"stops: {service.masked(result.output.strip())}",
            service=service.alias,
        )
