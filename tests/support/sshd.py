"""A real ssh server on the loopback, and the user's configuration that leads to it."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.faults.process import await_that, listens

_UNPACKED: Final = Path(__file__).parents[2] / ".cache/sshd"  # by ci/setup
# As root it wants a user of its own, which only an installed one has; here only it sees that.
_AS_ROOT: Final = (
    *("unshare", "--mount", "sh", "-c"),
    'mount --bind "$1" /etc/passwd && mkdir -p /run/sshd && shift && exec "$@"',
    "sh",
)
_CONFIG: Final = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv PATH={path} DOCKER_HOST={daemon}
"""
# What a user has in ~/.ssh/config: a machine that is reached through another one.
_CLIENT: Final = """
Host jump
  HostName 127.0.0.1
Host builder
  HostName localhost
  ProxyJump jump
Host impostor
  HostName localhost
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking yes
Host stranger
  HostName localhost
  PubkeyAuthentication no
Host closed
  HostName localhost
  Port 1
Host *
  Port {port}
  User {user}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known
"""


@contextlib.contextmanager
def ssh_server(folder: Path, *, daemon: str) -> Iterator[str]:
    """Serve until the block ends, with this daemon's docker command at the far end.

    Hosts of the configuration: ``builder``, and ``impostor``, ``stranger`` and ``closed``, which
    do not work. Gives the `PATH` on which ``ssh`` reads that configuration.
    """
    program = next(filter(Path.exists, (Path("/usr/sbin/sshd"), _UNPACKED / "usr/sbin/sshd")), None)
    ssh = shutil.which("ssh")
    if program is None or ssh is None:
        raise unittest.SkipTest("there is no sshd or no ssh: ci/setup brings them")
    folder.chmod(0o755)
    for name in ("host", "key"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(argv, check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = {"folder": folder, "port": port, "user": getpass.getuser()}
    (folder / "sshd").write_text(_CONFIG.format(**words, path=os.environ["PATH"], daemon=daemon))
    (folder / "config").write_text(_CLIENT.format(**words))
    key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known").write_text(f"[localhost]:{port},[127.0.0.1]:{port} {key}\n")
    # Who logs in as root has a home here, and no start-up files.
    users = f"root:x:0:0::{folder}:/bin/sh\nsshd:x:65533:65534::/run/sshd:/bin/false\n"
    (folder / "passwd").write_text(users)
    script = folder / "bin" / "ssh"
    script.parent.mkdir()
    # ssh looks for the configuration in the home that the system knows, and not in $HOME.
    script.write_text(f'#!/bin/sh\nexec {ssh} -F {folder}/config "$@"\n')
    script.chmod(0o755)
    before = [*_AS_ROOT, str(folder / "passwd")] if os.geteuid() == 0 else []
    libraries = os.pathsep.join(str(it.parent) for it in _UNPACKED.glob("usr/lib/*/libwrap.so.0"))
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*before, str(program), "-D", "-e", "-f", str(folder / "sshd")],
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
            stdout=output,
            stderr=output,
        )
    try:
        await_that(lambda: listens("127.0.0.1", port) or server.poll(), "sshd is silent")
        assert server.poll() is None, log.read_text()
        yield f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    finally:
        server.terminate()
        server.wait()
