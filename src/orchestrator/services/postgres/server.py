"""`PostgresServer`: the options of `Postgres`, and how they start a server."""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, get_args

from orchestrator.errors import DeclarationError, ServiceError
from orchestrator.probes import Call, NotReadyError, connect
from orchestrator.services import options
from orchestrator.services.hooks import Extras
from orchestrator.services.once import ProcessLock, locked_property
from orchestrator.services.postgres import setup, snapshots
from orchestrator.services.postgres.setup import check_migration, quoted
from orchestrator.services.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import sqlalchemy

    from orchestrator.probes import Probe, Target
    from orchestrator.services.tls import Tls

Isolation = Literal["schema", "database", "transaction", "none"]

SUPERUSER: Final = "orchestrator"
"""Of a server that a run shares."""
_INIT_SUFFIXES: Final = (".sql", ".sql.gz", ".sh")
_FIRST: Final = "orchestrator.sql"  # with scope="run"
_ENTRYPOINT: Final = ["docker-entrypoint.sh"]
# With these in `env` it makes something else than the handle says.
_OTHERWISE: Final = ("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB")
_THERE: Final = ("postgres", "template0", "template1")
_INIT_FOLDER: Final = "/docker-entrypoint-initdb.d"
# Others rely on where the server listens and keeps its data. Names have no case.
_OURS: Final = ("port", "listen_addresses", "unix_socket_directories", "data_directory")
_SETTING: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?")
_QUIET: Final = {"log_checkpoints": "off"}  # each clone is one; they say nothing of a test
# The defaults, 1 GB and 80 MB, are for disks.
_IN_MEMORY: Final = {"max_wal_size": "128MB", "min_wal_size": "32MB"}
# What a crash of the machine could lose is of no worth to a test. Killing the server loses nothing:
# what is committed was written, if not to the disk; with synchronous_commit=off it would not be.
_NOT_DURABLE: Final = {"fsync": "off", "full_page_writes": "off"}
_PROTOCOL_3: Final = 196608
_ASK_FOR_TLS: Final = 80877103
_CERTIFICATES: Final = "/etc/orchestrator-tls"
_TLS: Final = {
    "ssl": "on",
    "ssl_cert_file": f"{_CERTIFICATES}/server.pem",
    "ssl_key_file": f"{_CERTIFICATES}/server.key",
    "hba_file": f"{_CERTIFICATES}/pg_hba.conf",
}
# As the official image has it, but with TLS only.
_ONLY_TLS: Final = b"""
local all all trust
local replication all trust
hostssl all all all scram-sha-256
hostssl replication all all scram-sha-256
"""

# What the log of a server that ended says of the reason.
_RUNNING: Final = re.compile(rf"running {_INIT_FOLDER}/(\d+)-", re.MULTILINE)
_PSQL: Final = re.compile(rf"^psql:{_INIT_FOLDER}/\S+:(?P<line>\d+): (?P<error>.+)$", re.MULTILINE)
_STATE: Final = re.compile(r"database system is (?P<state>ready to accept|shut down)")
# A FATAL of the server itself; those of one connection, such as these, end no server.
_FATAL: Final = re.compile(
    r"FATAL:\s+(?!terminating connection|the database system is)(?P<error>.+)$", re.MULTILINE
)
_PANIC: Final = re.compile(r"PANIC:\s+(?P<error>.+)$", re.MULTILINE)

# A server's data are in memory: it starts and clones in a fraction of the time that a disk takes.
# But memory is emptied when the container stops. So the server finds its data through a link.
# Before a test stops it, the data are copied to the disk, and then the link leads there: what was
# committed is there when the server starts again.
_FOLDER: Final = "/orchestrator"
DATA: Final = f"{_FOLDER}/data"
MEMORY: Final = f"{_FOLDER}/memory"
_SAVED: Final = f"{_FOLDER}/saved"
USER: Final = "postgres"  # in every image of the family
_SAVE: Final = f"rm -rf {_SAVED}; {snapshots.STOP} cp -a {MEMORY} {_SAVED}; copied=$?"
_AND_END: Final = "[ $copied = 0 ] || kill -CONT -1; exit $copied"
_AND_GO_ON: Final = "kill -CONT -1; exit $copied"
_GONE: Final = (
    "{} ended by itself, and with it went its data, which were in memory. End the server with "
    "kill(), or declare durable=True, which keeps them on the disk."
)


class PostgresServer(Service):
    """What an image of the postgres family needs; `Postgres` says what a test can do with it."""

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
    fingerprint: Sequence[str | Path] = ()
    tls: bool = False
    durable: bool = False
    _certificates: Tls | None = options.private(None)

    _superuser_password: str = options.private("")
    """With ``scope="run"`` no test has it."""

    def check_options(self) -> None:
        """Raise DeclarationError for a value that cannot work."""
        options.choice(self, "isolation", self.isolation, get_args(Isolation))
        for option in ("durable", "tls"):
            options.check_flag(self, option, getattr(self, option))
        options.check_password(self, self.password)
        if self.password is not None and "\n" in self.password:
            # initdb reads it from a file, to the end of the line.
            raise DeclarationError("Postgres(password=…) cannot be used: expected text of one line")
        for option in ("database", "username"):
            options.check_identifier(self, option, getattr(self, option))
        for option in ("databases", "extensions", "roles"):
            names = getattr(self, option)
            if option == "databases" and isinstance(names, Mapping):
                names = list(names)
            good = isinstance(names, Sequence) and not isinstance(names, (str, bytes))
            good = good and all(map(options.is_identifier, names)) and len(set(names)) == len(names)
            options.check(self, option, good, "a list of different names of 1 to 63 bytes")
        if self._superuser in self.roles:
            raise DeclarationError(
                f"Postgres(roles=…) cannot have {self._superuser!r}: that is the superuser"
            )
        if self.scope == "run" and self.username == self._superuser:
            raise DeclarationError(
                f"Postgres(username={self.username!r}) cannot be used with scope='run', where the "
                "superuser is called so"
            )
        others = self.database not in self.databases
        options.check(self, "databases", others, "databases beside `database`")
        migrations = {"migrate": self.migrate}
        if isinstance(self.databases, Mapping):
            migrations |= {f"databases[{name!r}]": it for name, it in self.databases.items()}
        for option, migration in migrations.items():
            check_migration(migration, option=option)
        good = options.is_paths(self.fingerprint)
        options.check(self, "fingerprint", good, "a list of files and folders")
        self._check_settings()
        self._check_init()

    def server_capabilities(self) -> Sequence[str]:
        """What the entry point needs to give the data to the server's user, and to become it."""
        return ("CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID")

    def server_env(self) -> Mapping[str, str]:
        """The official image's contract."""
        return self._image_env

    @property
    def _image_env(self) -> Mapping[str, str]:
        return {
            "POSTGRES_USER": self._superuser,
            "POSTGRES_PASSWORD": self._superuser_password or self.password or "",
            "POSTGRES_DB": self.database,
            **({} if self.durable else {"POSTGRES_INITDB_ARGS": " ".join(self._initdb)}),
            **({"PGDATA": DATA} if self._in_memory else {}),
        }

    @property
    def _first_statements(self) -> Sequence[str]:
        """What makes of a new server that which the image's entry point would."""
        password = self._superuser_password or self.password or ""
        create = [f"create database {quoted(self.database)}"]
        return [
            snapshots.LET_IN,
            snapshots.set_password(self._superuser, password),
            *([] if self.database in _THERE else create),
            *self._before_init,
        ]

    @property
    def _initdb(self) -> Sequence[str]:
        """A log in small pieces, as a snapshot has a whole one, which is nearly empty."""
        return ("--no-sync", *(["--wal-segsize=1"] if self._in_memory else []))

    @property
    def _superuser(self) -> str:
        """Whose role the server is made by: with ``scope="run"`` none of a test's."""
        return SUPERUSER if self.scope == "run" else self.username

    def server_shell(self) -> str:
        """Its image lets the administrator in without a password, from inside."""
        return shlex.join(["psql", "-U", self._superuser, self.database])

    def server_command(self) -> Sequence[str]:
        """Settings as arguments."""
        settings = {
            **_QUIET,
            **({} if self.durable else _NOT_DURABLE),
            **(_IN_MEMORY if self._in_memory else {}),
            **(_TLS if self.tls else {}),
            **self.settings,
        }
        return [
            word for name, value in settings.items() for word in ("-c", f"{name}={_setting(value)}")
        ]

    def server_files(self) -> Mapping[str, bytes]:
        """The init files, numbered so that they run in the order given.

        A compressed one is unpacked: psql tells no lines of what it reads from a pipe.

        Raises:
            DeclarationError: A file cannot be read.
        """
        if self._starts_itself:
            return {}
        files = {}
        if self.scope == "run":
            files[f"{_INIT_FOLDER}/000-{_FIRST}"] = snapshots.script(self._before_init).encode()
        for number, file in enumerate(self.init, start=len(files)):
            content = options.read_file(self, "init", file)
            name = Path(file).name
            if name.endswith(".gz"):
                name, content = name.removesuffix(".gz"), _unpacked(content, file)
            files[f"{_INIT_FOLDER}/{number:03}-{name}"] = content
        return files

    def server_extras(self) -> Extras:
        """Certificates; the server reads its key only if nobody else can."""
        if self._certificates is None:
            return super().server_extras()
        from orchestrator.engine.api import Copy  # declaring loads no more than it needs

        server = self._certificates.server
        hba, certificate = _TLS["hba_file"], _TLS["ssl_cert_file"]
        return Extras(
            copies=[
                Copy(path=hba, source=_ONLY_TLS),
                Copy(path=certificate, source=server.certificate),
                Copy(path=_TLS["ssl_key_file"], source=server.key, mode=0o600, owner=USER),
            ]
        )

    def server_entrypoint(self) -> Sequence[str] | None:
        """That of the image, where it has more to do than to make a database."""
        if not self._starts_itself:
            return None
        snapshot = self.running.snapshot
        return snapshots.entrypoint(
            snapshot.size if snapshot else None, memory=MEMORY if self._in_memory else None
        )

    def server_tmpfs(self) -> Mapping[str, str]:
        """The memory that holds the data."""
        return {MEMORY: "mode=1777"} if self._in_memory else {}

    def server_links(self) -> Mapping[str, str]:
        """The data are in the memory, until they are saved."""
        return {DATA: MEMORY} if self._in_memory and not self._starts_itself else {}

    def readiness(self) -> Probe:
        """It asks for a password over TCP; the temporary server of the first start cannot."""
        ask = partial(asks_for_password, tls=self._certificates)
        return Call(update_wrapper(ask, asks_for_password))  # for its name in messages

    def why_ended(self) -> str:
        """The init file and its line, or the server's last words."""
        return why_ended(self.logs(), [*([_FIRST] if self.scope == "run" else []), *self.init])

    @property
    def _from_snapshot(self) -> bool:
        """Whether it starts from data that another server has prepared."""
        return self._runtime is not None and self.running.snapshot is not None

    @locked_property
    def _starts_itself(self) -> bool:
        """Whether it is started without the image's entry point, and the server that this starts.

        What only the container shows is left to its script.
        """
        if self._runtime is None or self._from_snapshot or self.init or not self._is_plain:
            return self._from_snapshot
        image = self.running.engine.images.find(self.running.image_id)
        return image is not None and list(image.entrypoint) == _ENTRYPOINT

    @property
    def _is_plain(self) -> bool:
        """Whether roles and passwords can be made as we would, instead of the entry point."""
        return not (
            any(name in _OTHERWISE or name.endswith("_FILE") for name in self.env)
            or any(name.lower() == "password_encryption" for name in self.settings)
            or any("\n" in name for name in (self.database, self.username, *self.roles))
            or not (self.password or "").isascii()
        )

    @property
    def _before_init(self) -> Sequence[str]:
        """What comes before anybody's init files."""
        if self.scope != "run":
            return ()
        return setup.before_init(self.username, database=self.database, superuser=self._superuser)

    @property
    def _in_memory(self) -> bool:
        """Whether the data are in memory: files there would count towards a limit of it."""
        return not self.durable and self.memory is None and "PGDATA" not in self.env

    @property
    def _clones(self) -> bool:
        """Whether tests get a clone of the database: a schema cannot carry what is in it."""
        carries = self.migrate is not None or bool(self.init)
        return self.isolation == "database" or (self.isolation == "schema" and carries)

    def _check_settings(self) -> None:
        good = isinstance(self.settings, Mapping) and all(
            isinstance(name, str)
            and _SETTING.fullmatch(name)
            and isinstance(value, (str, int, float))
            and options.is_text(str(value), empty=True)
            for name, value in self.settings.items()
        )
        options.check(self, "settings", good, "a mapping of a setting's name to its value")
        for name in self.settings:
            if name.lower() in _OURS:
                raise DeclarationError(
                    f"Postgres(settings=…) cannot set {name!r}: the service relies on its own value"
                )

    def _check_init(self) -> None:
        good = options.is_paths(self.init)
        good = good and all(str(file).endswith(_INIT_SUFFIXES) for file in self.init)
        expected = f"a list of files whose names end in {', '.join(_INIT_SUFFIXES)}"
        options.check(self, "init", good, expected)


def asks_for_password(target: Target, *, tls: Tls | None = None) -> None:
    """Return when the server lets clients in: its protocol's first words need no password.

    Raises:
        NotReadyError: It answers, but says that it is not ready.
    """
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(connect(target))
        if tls is not None:
            connection.sendall(struct.pack("!ii", 8, _ASK_FOR_TLS))
            if connection.recv(1) != b"S":
                raise NotReadyError("it does not speak TLS yet")
            secured = tls.client_context.wrap_socket(connection, server_hostname=target.host)
            connection = stack.enter_context(secured)
        user = b"user\0orchestrator\0\0"
        connection.sendall(struct.pack("!ii", 8 + len(user), _PROTOCOL_3) + user)
        answer = connection.recv(1024)
    if answer[:1] != b"R":  # R asks for authentication; E says "the database is starting up"
        words = answer[5:].replace(b"\0", b" ").decode(errors="replace").strip()
        raise NotReadyError(words or "the connection was closed")


def why_ended(logs: str, init: Sequence[str | Path]) -> str:
    """What the log of a server that ended tells of the reason; empty if nothing."""
    if running := list(_RUNNING.finditer(logs)):
        last = running[-1]
        number = int(last[1])
        file = str(init[number]) if number < len(init) else "?"
        if error := _PSQL.search(logs, last.end()):
            return f"the init file {file} failed in line {error['line']}: {error['error']}"
        if "database system is shut down" not in logs[last.end() :]:
            return f"the init file {file} failed"
    told = list(_STATE.finditer(logs))
    served = bool(told) and told[-1]["state"] != "shut down"
    fatal = _PANIC.search(logs) or (None if served else _FATAL.search(logs))
    return fatal["error"] if fatal else ""


def _setting(value: str | float) -> str:
    """A setting's value as the server reads it."""
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _unpacked(content: bytes, file: str | Path) -> bytes:
    import gzip  # not at import: few declare such a file

    try:
        return gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise DeclarationError(f"Postgres(init=…) cannot unpack {str(file)!r}: {error}") from error


@dataclass(eq=False)
class ServerState:
    """What all handles of a server share.

    Attributes:
        on_disk: Whether its data outlive its end.
        live: The schemas and databases of tests that run now.
        lock: Guards those.
        logins: Numbers for the logins of tests.
    """

    on_disk: bool
    live: list[str] = field(default_factory=list)
    lock: ProcessLock = field(default_factory=ProcessLock)
    logins: Iterator[int] = field(default_factory=itertools.count)

    @contextlib.contextmanager
    def saving(self, service: Service, *, crash: bool) -> Iterator[None]:
        """Stop the server in the block; what it had committed before is on the disk then.

        That is done from within the container, so that a partition does not matter.

        Args:
            service: The class's or the test's handle.
            crash: Whether it is killed, and does nothing more.

        Raises:
            ServiceError: The data are gone, as the server ended by itself; or cannot be copied.
        """
        if self.on_disk:
            yield
            return
        engine, container = service.running.engine, service.running.container
        state = service.state()
        if state is None or state.ended:
            raise ServiceError(_GONE.format(service.alias), service=service.alias)
        if state.status == "paused":
            engine.unpause_container(container)
        script = f"{_SAVE}; {_AND_END if crash else _AND_GO_ON}"
        done = engine.exec(container, ["sh", "-c", script], user=USER)
        if done.exit_code != 0:
            raise ServiceError(
                f"{service.alias}: its data cannot be copied to the disk before it stops: "
                f"{done.output.strip()}",
                service=service.alias,
            )
        yield
        engine.files.copy_into(container, [], links={DATA: _SAVED})
        self.on_disk = True
