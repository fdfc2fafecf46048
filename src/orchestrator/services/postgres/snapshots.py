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
from orchestrator.services.hooks import SNAPSHOT
from orchestrator.services.postgres.admin import literal, quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

PASSWORDS: Final = "ORCHESTRATOR_PASSWORDS"
"""The variable with the SQL that gives roles a server's passwords, as verifiers."""
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
as='setpriv --reuid=postgres --regid=postgres --init-groups --'
for it in gosu su-exec; do ! command -v "$it" >/dev/null || as="$it postgres"; done
export HOME=/var/lib/postgresql
[ -e "$PGDATA" ] || ln -s MEMORY "$PGDATA"
chown postgres "${PGDATA%/*}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    found=$(cd FROM && find . -type f -exec stat -c '%s %n' {} + | LC_ALL=C sort | md5sum)
    [ "$found" = 'CHECK  -' ] || { echo 'FATAL:  the snapshot is damaged' >&2; exit 1; }
    cp -a FROM/. "$PGDATA/"
    chown postgres "$PGDATA/"
    chmod 0700 "$PGDATA/"
    said=$(printf '%s\n' "$PASSWORDS" |
        $as postgres --single -j -D "$PGDATA" "$@" template1 2>&1 >/dev/null) || {
        printf '%s\n' "$said" >&2
        exit 1
    }
fi
unset PASSWORDS
exec $as postgres "$@"
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


def entrypoint(check: str, *, memory: str) -> Sequence[str]:
    """What starts a server from a snapshot; settings are its arguments."""
    script = _START.replace("FROM", SNAPSHOT).replace("PASSWORDS", PASSWORDS)
    script = script.replace("MEMORY", memory).replace("CHECK", check)
    return ["sh", "-c", script, "orchestrator"]


def passwords(by_role: Mapping[str, str]) -> str:
    """The SQL that gives roles their passwords, as `postgres --single -j` reads it."""
    return "".join(
        f"alter role {quoted(role)} login password {literal(_verifier(password))};\n\n"
        for role, password in by_role.items()
    )


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
