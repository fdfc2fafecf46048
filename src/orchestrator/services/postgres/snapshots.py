"""Snapshots of a prepared server: what its data depend on, how they are taken, and used."""

from __future__ import annotations

import base64
import hashlib
import hmac
import inspect
import os
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
from orchestrator.services.hooks import SNAPSHOT_DATA, Hooks, SnapshotKey
from orchestrator.services.postgres.setup import is_alembic, is_metadata, literal, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


_FORMAT: Final = 4  # of snapshots, and of how it is made
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
_PLAIN: Final = (str, int, float, bool, type(None))
STATEMENTS: Final = "ORCHESTRATOR_STATEMENTS"
"""The variable with the SQL that is executed before a server listens, as `script` writes it."""
_ROUNDS: Final = 4096  # as the server has them
# The server's processes stop, so that what is read is what a crash at this moment leaves: it
# recovers from its log as from any crash. kill(2): -1 spares the caller and the first process. A
# process in the kernel comes to what it was doing there first, which is waited for, within reason.
STOP: Final = r"""
kill -STOP -1
tries=0
while [ $tries -lt 500 ]; do
    tries=$((tries + 1))
    for it in /proc/[0-9]*/stat; do
        read -r stat <"$it" || continue
        case "${stat%% *} ${stat##*) }" in
            "1 "* | "$$ "* | *" T "* | *" Z "*) ;;
            *) continue 2 ;;
        esac
    done 2>/dev/null
    break
done
"""
# As whom the server runs.
_AS: Final = r"""
as='setpriv --reuid=postgres --regid=postgres --init-groups --'
for it in gosu su-exec; do ! command -v "$it" >/dev/null || as="$it postgres"; done
"""
# By the server's user, who can write nowhere else than it could. What is newer than the container's
# first moment is what its start has changed. A crash empties a table that is not logged: its file
# is called so.
PACK: Final = rf"""
cd "$0" || exit
none_of() {{ [ -z "$2" ] || {{ printf '%s %s\n' "$1" "$2" >&2; exit 1; }}; }}
none_of 'some data lie elsewhere:' "$(find . -type l | head -n 1)"
none_of 'a table is unlogged:' "$(find . -name '[0-9]*_init' | head -n 1)"
none_of 'the start has changed' "$(find / -xdev ! -type d -newer /etc/hostname \
    ! -path '/orchestrator*' ! -path '/run/*' ! -path '/var/run/*' \
    ! -path /etc/hosts ! -path /etc/resolv.conf 2>/dev/null | head -n 1)"
{STOP}
tar cf - $(ls -A | grep -vx -e postmaster.pid -e postmaster.opts)
taken=$?
kill -CONT -1
exit $taken
"""
# Into a file that only root can change. There is one process, which spares itself.
TAKE: Final = f'{_AS} exec $as sh -c "$0" "$1" >{SNAPSHOT_DATA}'
HOLDS: Final = """
select size, (
    select bool_or(pg_read_binary_file(file, at, piece + 1024) like any(%s))
    from generate_series(0, size, piece) as at
)
from (values (%s, 8388608)) as it(file, piece), lateral pg_stat_file(file)
"""
"""What tells the size of a file, and whether it has one of these; its pieces overlap."""
# The settings are the arguments. The server never listens before the passwords are this one's. All
# that it needs comes with the container: writing files into that would take as long as the copy.
_START: Final = r"""
set -e
[ -e "$PGDATA" ] || PLACE "$PGDATA"
UNLESS
AS
export HOME=/var/lib/postgresql
chown postgres "${PGDATA%/*}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    FILL
    said=$(printf '%s\n' "$STATEMENTS" |
        $as postgres --single -j -D "$PGDATA" "$@" template1 2>&1 >/dev/null) || said=ERROR:$said
    case $said in
    *ERROR:*) printf '%s\n' "$said" >&2 && exit 1 ;;
    esac
fi
unset STATEMENTS
exec $as postgres "$@"
"""
_COPY: Final = r"""
    [ "$(stat -c %s TAR)" = SIZE ] || { echo 'FATAL:  the snapshot is damaged' >&2; exit 1; }
    tar xpf TAR -C "$PGDATA/"
    chown postgres "$PGDATA/"
    chmod 0700 "$PGDATA/"
"""
# What the image's entry point does, without the server that it starts and stops in between: it has
# that make its database, and so do `LET_IN` and what follows it here.
_INITIALISE: Final = r"""
    chown postgres "$PGDATA/"
    eval "$as initdb -D \"\$PGDATA\" --username=\"\$POSTGRES_USER\" $POSTGRES_INITDB_ARGS"
"""
LET_IN: Final = """
copy (select 'host all all all ' || current_setting('password_encryption'))
to program 'cat >>pg_hba.conf'
"""
"""The statement that lets other hosts in, by their passwords."""
# Where that has more to do: an image's own init files, variables of its own, another command.
_UNLESS: Final = r"""
files=$(ls -A /docker-entrypoint-initdb.d 2>/dev/null) || :
variables=$POSTGRES_HOST_AUTH_METHOD$POSTGRES_INITDB_WALDIR$POSTGRES_INITDB_ARGS_FILE
case $(id -u):$files:$variables:${1--} in
0:::-*) ;;
*) exec docker-entrypoint.sh "$@" ;;
esac
"""


def entrypoint(snapshot: int | None, *, memory: str | None) -> Sequence[str]:
    """What starts a server instead of its image's entry point; settings are its arguments.

    Args:
        snapshot: The size of the tar that it starts from, if not from nothing.
        memory: The folder for its data, if they are not where the image has them.
    """
    script = _START.replace("UNLESS", "" if snapshot else _UNLESS).replace("\nAS\n", _AS)
    copy = _COPY.replace("TAR", SNAPSHOT_DATA).replace("SIZE", str(snapshot))
    script = script.replace("FILL", copy if snapshot else _INITIALISE)
    script = script.replace("PLACE", f"ln -s {memory}" if memory else "mkdir -p")
    return ["sh", "-c", script.replace("STATEMENTS", STATEMENTS), "orchestrator"]


def script(statements: Iterable[str]) -> str:
    """Statements as `postgres --single -j` reads them."""
    return "".join(f"{it};\n\n" for it in statements)


def set_password(role: str, password: str) -> str:
    """The statement that gives a role its password."""
    return f"alter role {quoted(role)} login password {literal(_verifier(password))}"


def patterns(passwords: Iterable[str]) -> list[bytes]:
    """What is like each of these, with anything around it."""
    return [b"%" + re.sub(r"([\\%_])", r"\\\1", it).encode() + b"%" for it in passwords]


def _verifier(password: str) -> str:
    """What a server stores of an ASCII password: RFC 5803."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ROUNDS)
    client, server = (
        hmac.digest(salted, what, "sha256") for what in (b"Client Key", b"Server Key")
    )
    stored = hashlib.sha256(client).digest()
    words = [base64.b64encode(it).decode() for it in (salt, stored, server)]
    return f"SCRAM-SHA-256${_ROUNDS}:{words[0]}${words[1]}:{words[2]}"


# What data, and the outcome of a migration, depend on


def key_of(service: Any, image: str, *, own: type[Hooks]) -> SnapshotKey | None:
    """What a declared server's data depend on; None when that cannot be known.

    Args:
        service: The declaration, a `Postgres`, whose room imports this one.
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


def migration_key(handle: Any) -> str | None:
    """What the outcome of a handle's migration depends on, to all processes of a run."""
    if handle.migrate is None:
        return None
    made = _Key()
    made.add(handle.running.image_id, handle.database, _ADDRESS.sub("", repr(handle)))
    known = made.add_named(handle.migrate) or made.add_migration(handle.migrate, has_files=False)
    return made.digest() if known else None


def _is_known(service: Any, own: type[Hooks]) -> bool:
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
