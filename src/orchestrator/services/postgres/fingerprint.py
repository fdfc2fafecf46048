"""What a server's data, and a migration's outcome, depend on: the keys by which they are known."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from orchestrator.errors import DeclarationError
from orchestrator.services.files import copies
from orchestrator.services.hooks import Hooks, SnapshotKey
from orchestrator.services.postgres.setup import is_alembic, is_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator.services.postgres.server import PostgresServer

_FORMAT: Final = 3  # of snapshots, and of how it is made
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
_PLAIN: Final = (str, int, float, bool, type(None))


def key_of(service: PostgresServer, image: str, *, own: type[Hooks]) -> SnapshotKey | None:
    """What a declared server's data depend on; None when that cannot be known.

    Args:
        service: The declaration.
        image: The id of its image.
        own: The class whose hooks are known here.
    """
    if not _is_known(service, own):
        return None
    made = _Key()
    made.add(_FORMAT, image, service.database, service.username, service.password)
    made.add(sorted(service.roles), list(service.databases), list(service.extensions))
    made.add(service.server_command(), sorted(service.tmpfs.items()))
    env = {**service._image_env, **service.env}  # noqa: SLF001 - before a container is there
    made.add(sorted((name, it) for name, it in env.items() if name != "POSTGRES_PASSWORD"))
    for path, content in service.server_files().items():
        made.add(path, repr(content))
    for copy in copies(service, service.files):
        made.add(copy.path, copy.mode, copy.owner)
        if isinstance(copy.source, bytes):
            made.add(repr(copy.source))
        else:
            made.add_files(copy.source)
    for file in service.fingerprint:
        made.add_files(Path(file))
    migrations = {service.database: service.migrate}
    if isinstance(service.databases, Mapping):
        migrations |= service.databases
    for database, migration in migrations.items():
        made.add(database)
        if not made.add_migration(migration, has_files=bool(service.fingerprint)):
            return None
    return SnapshotKey(text=made.digest(), lasting=made.lasting)


def migration_key(handle: PostgresServer) -> str | None:
    """What the outcome of a handle's migration depends on, to all processes of a run."""
    if handle.migrate is None:
        return None
    made = _Key()
    made.add(handle.running.image_id, handle.database, _ADDRESS.sub("", repr(handle)))
    known = made.add_named(handle.migrate) or made.add_migration(handle.migrate, has_files=False)
    return made.digest() if known else None


def _is_known(service: PostgresServer, own: type[Hooks]) -> bool:
    """Whether a server is started, and its data are made, by what stands here."""
    between = type(service).__mro__[: type(service).__mro__.index(own)]
    hooks = {name for name in dir(Hooks) if callable(getattr(Hooks, name))} - set(dir(object))
    if any(name in vars(base) for base in between for name in hooks):
        return False
    scripts = [file for file in service.init if str(file).endswith(".sh")]
    return (
        service.command is None
        and service._is_plain  # noqa: SLF001 - our own
        and not (scripts and service.tmpfs)  # what they write there is not seen
    )


class _Key:
    """Collects what data depend on."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.lasting = True

    def add(self, *parts: object) -> None:
        for part in parts:
            text = part if isinstance(part, str) else repr(part)
            self._hash.update(f"{len(text)}:{text}".encode(errors="surrogatepass"))

    def digest(self) -> str:
        return self._hash.hexdigest()

    def add_files(self, path: Path) -> None:
        """A file, or all below a folder, by what is in it.

        Raises:
            DeclarationError: It cannot be read.
        """
        try:
            for file in _files(path):
                self.add(
                    file.relative_to(path).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()
                )
        except OSError as error:
            raise DeclarationError(
                f"Postgres(fingerprint=…) cannot read {error.filename!r}: {error.strerror}"
            ) from error

    def add_migration(self, migration: Any, *, has_files: bool) -> bool:
        """Whether it is known what a migration depends on, if within this process only."""
        if migration is None:
            return True
        if is_alembic(migration):
            return self._add_alembic(migration)
        if is_metadata(migration):
            return self._add_metadata(migration)
        code = getattr(migration, "__code__", None)
        if has_files and isinstance(code, CodeType):
            self.add(migration.__module__, migration.__qualname__, *_parts(code))
            return True
        return self._add_identity(migration)

    def add_named(self, function: Any) -> bool:
        """A function that every process imports by the same name; whether it is one."""
        code = getattr(function, "__code__", None)
        if not isinstance(code, CodeType) or function.__module__ == "__main__":
            return False
        found: Any = sys.modules.get(function.__module__)
        for name in function.__qualname__.split("."):
            found = getattr(found, name, None)
        if found is not function:
            return False
        self.add(function.__module__, function.__qualname__, *_parts(code))
        return True

    def _add_identity(self, migration: Any) -> bool:
        """Itself, while this process lives."""
        self.lasting = False
        for it in (
            (migration.__self__, migration.__func__)
            if inspect.ismethod(migration)
            else (migration,)
        ):
            try:
                self.add(_tokens.setdefault(it, str(uuid.uuid4())))
            except TypeError:  # neither hash nor weak references
                return False
        return True

    def _add_alembic(self, config: Any) -> bool:
        """All its files and options; objects in `attributes` are known in this process only."""
        module: Any = sys.modules.get("alembic.script")
        try:
            if module is None:
                import alembic.script as module
            script = module.ScriptDirectory.from_config(config)
            folders = [script.dir, *(script._version_locations or ())]  # noqa: SLF001 - no other way
        except Exception:  # noqa: BLE001 - the migration will say it better
            return False
        for folder in dict.fromkeys(map(str, folders)):
            self.add_files(Path(folder))
        if config.config_file_name is not None:
            self.add_files(Path(config.config_file_name))
        parser = config.file_config
        self.add(sorted((it, sorted(parser.items(it, raw=True))) for it in parser.sections()))
        for name in ("alembic", "sqlalchemy"):
            self.add(getattr(sys.modules.get(name), "__version__", ""))
        if getattr(config, "cmd_opts", None) is not None:
            return False
        if not all(isinstance(it, _PLAIN) for it in config.attributes.values()):
            return self._add_identity(config)
        self.add(sorted(config.attributes.items()))
        return True

    def _add_metadata(self, metadata: Any) -> bool:
        """All that `create_all` would send, to nobody."""
        import sqlalchemy

        said: list[str] = []

        def send(statement: Any, *arguments: object, **more: object) -> None:
            text = (
                str(statement.compile(dialect=engine.dialect))
                if hasattr(statement, "compile")
                else statement
            )
            said.append(f"{text} {arguments} {more}")

        engine = sqlalchemy.create_mock_engine("postgresql+psycopg://", send)
        try:
            metadata.create_all(engine, checkfirst=False)
        except Exception:  # noqa: BLE001 - it may have listeners that want a real one
            return False
        self.add(said)
        return " at 0x" not in "".join(said)  # addresses tell nothing


_tokens: Final[WeakKeyDictionary[Any, str]] = WeakKeyDictionary()


def _files(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return [path]
    found = (it for it in path.rglob("*") if it.is_file() and it.suffix != ".pyc")
    return sorted(found)


def _parts(code: CodeType) -> Iterator[object]:
    """A function's code, and that of those within it."""
    yield code.co_code.hex()
    yield code.co_names
    for it in code.co_consts:
        if isinstance(it, CodeType):
            yield from _parts(it)
        else:
            yield it
