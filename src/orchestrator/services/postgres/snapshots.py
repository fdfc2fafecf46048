"""Snapshots of a prepared server: how its data are taken, and how another starts from them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import os
import re
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from orchestrator.errors import OrchestratorError
from orchestrator.services.hooks import SNAPSHOT_DATA
from orchestrator.services.postgres.admin import literal, quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

STATEMENTS: Final = "ORCHESTRATOR_STATEMENTS"
"""The variable with the SQL that is executed before a server listens, as `script` writes it."""
_OF_A_START: Final = ("/orchestrator", "/run", "/var/run")
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
TAKE: Final = rf"""
cd "$1" || exit
for it in gosu su-exec setpriv; do command -v "$it" >/dev/null && as=$it; done
[ -n "$as" ] || {{ echo 'the image has nothing to become another user with' >&2; exit 1; }}
{STOP}
tar cf - $(ls -A | grep -vx -e postmaster.pid -e postmaster.opts)
taken=$?
kill -CONT -1
exit $taken
"""
# A crash empties a table that is not logged. Its file is called so.
_UNLOGGED: Final = re.compile(r"/[0-9]+_init$")
# The settings are the arguments. The server never listens before the passwords are this one's. All
# that it needs comes with the container: writing files into that would take as long as the copy.
_START: Final = r"""
set -e
[ -e "$PGDATA" ] || PLACE "$PGDATA"
UNLESS
as='setpriv --reuid=postgres --regid=postgres --init-groups --'
for it in gosu su-exec; do ! command -v "$it" >/dev/null || as="$it postgres"; done
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


def check_fit(
    tar: bytes, *, passwords: Iterable[str], changes: Iterable[str], ours: Collection[str]
) -> None:
    """Raise OrchestratorError unless other servers may start from data that were taken.

    Args:
        tar: The data.
        passwords: Those of this server's, none of which may be in there.
        changes: Paths outside of the data that differ from the image.
        ours: Those that we have written, and what is mounted.
    """
    changes = list(changes)
    folders = {str(it) for path in (*changes, *ours) for it in PurePosixPath(path).parents}
    for path in changes:
        if path not in folders and path not in ours and not path.startswith(_OF_A_START):
            raise OrchestratorError(f"the start has changed {path}")
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            if member.issym() or member.islnk():
                raise OrchestratorError("some data lie elsewhere")
            if _UNLOGGED.search(member.name):
                raise OrchestratorError("a table is unlogged")
    if any(it.encode() in tar for it in passwords):
        raise OrchestratorError("the data hold a password")


def entrypoint(snapshot: int | None, *, memory: str | None) -> Sequence[str]:
    """What starts a server instead of its image's entry point; settings are its arguments.

    Args:
        snapshot: The size of the tar that it starts from, if not from nothing.
        memory: The folder for its data, if they are not where the image has them.
    """
    script = _START.replace("UNLESS", "" if snapshot else _UNLESS)
    copy = _COPY.replace("TAR", SNAPSHOT_DATA).replace("SIZE", str(snapshot))
    script = script.replace("FILL", copy if snapshot else _INITIALISE)
    script = script.replace("PLACE", f"ln -s {memory}" if memory else "mkdir -p")
    return ["sh", "-c", script.replace("STATEMENTS", STATEMENTS), "orchestrator"]


def script(statements: Iterable[str]) -> str:
    """Statements as `postgres --single -j` reads them."""
    return "".join(f"{it};\n\n" for it in statements)


def password(role: str, password: str) -> str:
    """The statement that gives a role its password."""
    return f"alter role {quoted(role)} login password {literal(_verifier(password))}"


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
