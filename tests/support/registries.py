"""Real registries (Debian's docker-registry) on this machine, each on a port of its own."""

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.services.tls import Tls
from tests.faults.process import await_that, listens
from tests.support.tiny_images import Pusher

PROGRAM = shutil.which("docker-registry")
DEADLINE = 60.0
USER, PASSWORD = "alice", "wonder%land é"
# bcrypt of the password above; the registry reads no other scheme
HTPASSWD = f"{USER}:$2y$05$5ME7qokr6/IYCzM5Tz2kTO8Cp2oBfkFAqYqXSBrKFczX0YcuEe1Vu\n"


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A running registry."""

    host: str  # and port, as references write it
    pusher: Pusher
    config: Path
    ca: Path | None = None  # of its certificate


@contextlib.contextmanager
def registry(
    folder: Path, *, address: str = "127.0.0.1", password: bool = False, tls: bool = False
) -> Iterator[Registry]:
    """A registry that is gone afterwards, with its data in a folder."""
    if PROGRAM is None:
        raise RuntimeError("docker-registry is not installed: ci/setup brings it")
    host = f"{address}:{free_port(address)}"
    lines = [
        "version: 0.1",
        "log: {level: error}",
        "storage:",
        f"  filesystem: {{rootdirectory: {folder / 'data'}}}",
        "  delete: {enabled: true}",
        "http:",
        f"  addr: {host}",
    ]
    if tls:
        make_certificate(folder, address)
        lines += ["  tls:", f"    certificate: {folder / 'server.crt'}"]
        lines += [f"    key: {folder / 'server.key'}"]
    if password:
        (folder / "htpasswd").write_text(HTPASSWD, encoding="utf-8")
        lines += [f"auth: {{htpasswd: {{realm: tests, path: {folder / 'htpasswd'}}}}}"]
    config = folder / "config.yml"
    config.write_text("\n".join(lines), encoding="utf-8")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, "serve", config], stdout=log, stderr=log)
    pusher = Pusher(
        f"{'https' if tls else 'http'}://{host}",
        auth=(USER.encode(), PASSWORD.encode()) if password else None,
        verify=str(folder / "ca.crt") if tls else True,
    )
    try:
        wait_for_port(host, process, folder / "log")
        yield Registry(
            host=host, pusher=pusher, config=config, ca=folder / "ca.crt" if tls else None
        )
    finally:
        pusher.close()
        process.kill()
        process.wait()


def free_port(address: str) -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(host: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a program accepts connections."""
    address, _, port = host.rpartition(":")
    await_that(lambda: listens(address, int(port)) or process.poll(), "the registry is silent")
    assert process.poll() is None, log.read_text(encoding="utf-8")


def make_certificate(folder: Path, address: str) -> None:
    """A CA of its own (ca.crt) and a certificate for an address (server.crt, server.key)."""
    made = Tls.create([address])
    (folder / "ca.crt").write_bytes(made.authority)
    (folder / "server.crt").write_bytes(made.server.certificate)
    (folder / "server.key").write_bytes(made.server.key)
