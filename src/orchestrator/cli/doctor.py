"""`doctor`: what is wrong with this machine's Docker."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import grp
import json
import os
import re
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.cli import argument
from orchestrator.engine import connect, find_endpoint
from orchestrator.errors import EngineError, LockError, SettingsError, printable
from orchestrator.images import find_lock
from orchestrator.images.presence import find_image
from orchestrator.sessions import KINDS, Liveness, inventory
from orchestrator.settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from orchestrator.engine.api import EngineInfo
    from orchestrator.engine.docker import Engine
    from orchestrator.engine.endpoint import Endpoint

# A healthy daemon answers in milliseconds; who asks the doctor does not want to wait a minute.
_ENGINE_TIMEOUT: Final = 10.0  # seconds
_SOCKET_TIMEOUT: Final = 5.0  # seconds for a local socket to accept
# Postgres, Redis and Kafka take about 1 GB unpacked, their data and logs the rest.
LEAST_SPACE: Final = 2 << 30  # bytes
LEAST_INODES: Final = 50_000
_MAKE_ROOM: Final = "{0} system df; python -m orchestrator reap; {0} image prune --all"
# Where a socket is, links followed, tells whose it is, and how that is started.
_STARTS: Final = (
    (r"^/run/user/\d+/podman/", "systemctl --user {} podman.socket"),
    (r"/podman/podman\.sock$", "sudo systemctl {} podman.socket"),
    (r"/podman/", "podman machine {}"),
    (r"^/run/user/\d+/docker\.sock$", "systemctl --user {} docker"),
    (r"/\.docker/desktop/", "systemctl --user {} docker-desktop"),
    (r"/\.colima/", "colima {}"),
    (r"/\.(docker|orbstack|rd)/", "open -a Docker"),
)


@dataclass(frozen=True)
class Finding:
    """The result of one check; ``mend`` is the command that mends it, where something is wrong."""

    about: str
    text: str
    mend: str = ""

    def __str__(self) -> str:
        text = printable(self.text).replace("\n", "\n" + " " * 15)
        head = f"{'WRONG' if self.mend else 'ok':5} {self.about:8} {text}"
        mend = printable(self.mend, lines=False)
        return f"{head}\n{' ' * 15}mend it: {mend}" if mend else head


@argument("--json", action="store_true", help="print a JSON array")
def doctor(arguments: argparse.Namespace) -> int:
    """Look for what is wrong with this machine's Docker, and say the command that mends it.

    exit status: 0 when nothing is wrong, 1 otherwise.
    """
    findings = []
    for finding in examine():
        findings.append(finding)
        if not arguments.json:
            print(finding, flush=True)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    return 1 if any(finding.mend for finding in findings) else 0


def examine() -> Iterator[Finding]:
    """Run the checks one by one; those that need a daemon only when there is one."""
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        yield Finding("settings", str(error), f"unset {str(error).partition('=')[0]}")
        return
    try:
        endpoint = find_endpoint()
    except EngineError as error:
        yield Finding("daemon", str(error), _leave())
        return
    yield from check_credentials()
    if endpoint.socket and (problem := _socket_problem(endpoint, endpoint.socket)):
        yield problem
        return
    patience = min(settings.engine_timeout, _ENGINE_TIMEOUT)
    settings = dataclasses.replace(settings, engine_timeout=patience)
    with contextlib.closing(connect(settings, endpoint=endpoint)) as engine:
        try:
            info = engine.info()
        except EngineError as error:
            if error.status is None:
                text = str(error).removesuffix(" `python -m orchestrator doctor` looks closer.")
                verb = "start" if getattr(error, "absent", False) else "restart"
                yield Finding("daemon", f"{text}{_by(endpoint)}", _start(endpoint, verb))
                return
            yield _refusal("daemon", str(error), paths=["/info", "/version"])
        else:
            text = (
                f"{info.product} {info.version} (API {info.api_version}) at {endpoint.url}"
                f"{_by(endpoint)}, {info.os}/{info.architecture}, {info.cpus} CPUs, "
                f"{info.memory / 1e9:.1f} GB memory"
            )
            runs = info.os == "linux"
            yield Finding("daemon", text, "" if runs else "switch the daemon to Linux containers")
            yield check_disk(info, here=endpoint.socket is not None)
        yield from check_images(engine, settings)
        yield check_leftovers(engine)


def _by(endpoint: Endpoint) -> str:
    return f" (by {endpoint.origin})" if endpoint.origin else ""


def _leave() -> str:
    """The command after which another daemon than the one that was chosen is used."""
    variables = (name for name in ("DOCKER_HOST", "DOCKER_CONTEXT") if os.environ.get(name))
    return next((f"unset {name}" for name in variables), "docker context use default")


def _socket_problem(endpoint: Endpoint, path: str) -> Finding | None:
    """What keeps this user from the daemon's socket; None when nothing does."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_SOCKET_TIMEOUT)
            client.connect(path)
    except PermissionError:
        return _no_permission(path)
    except OSError as error:
        text, mend = f"no daemon: there is no socket {path}", _start(endpoint)
        if Path(path).exists() and not Path(path).is_socket():
            restart = f"sudo rm -r {path}; {_start(endpoint, 'restart')}"
            text = f"{path} is not the socket of a daemon"
            mend = _leave() if endpoint.origin else restart
        elif isinstance(error, ConnectionRefusedError):
            text = f"no daemon: nobody listens on {path}; it ended without removing it"
        elif not isinstance(error, FileNotFoundError):
            text = f"the daemon's socket {path} does not accept: {error}"
            mend = _start(endpoint, "restart")
        return Finding("daemon", f"{text}{_by(endpoint)}", mend)
    return None


def _refusal(about: str, text: str, *, paths: Iterable[str]) -> Finding:
    """The finding that a daemon answers, but not this, such as behind a filtering proxy."""
    mend = f"if a filter stands before the daemon, let it allow GET {', '.join(paths)}"
    return Finding(about, text, mend)


def _start(endpoint: Endpoint, verb: str = "start") -> str:
    """The command that starts the daemon of an endpoint, or leaves one that is not to be had."""
    leave = f"; or: {_leave()}" if endpoint.origin else ""
    if endpoint.socket is None:
        return f"{verb} Docker on {endpoint.hostname}{leave}"
    path = str(Path(endpoint.socket).resolve())
    command = next((command for place, command in _STARTS if re.search(place, path)), "")
    if command:
        return f"{command.format(verb)}{leave}"
    if not endpoint.origin:
        return _start_here(verb)
    return f"{verb} the daemon of {path}{leave}" if Path(path).exists() else _leave()


def _start_here(verb: str) -> str:
    if shutil.which("dockerd") is None and shutil.which("docker") is None:
        if shutil.which("apt-get"):
            return "sudo apt-get install docker.io"
        return "install Docker: https://docs.docker.com/engine/install"
    if Path("/run/systemd/system").is_dir():
        return f"sudo systemctl {verb} docker"
    return "open -a Docker" if os.uname().sysname == "Darwin" else f"sudo service docker {verb}"


def _no_permission(path: str) -> Finding:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    text = f"user {user} may not use the daemon's socket {path}"
    if "podman" in str(Path(path).resolve()):  # it is of one user, and everybody can have one
        own = f"unix:///run/user/{os.getuid()}/podman/podman.sock"
        start = "systemctl --user start podman.socket"
        return Finding("daemon", text, f"{start} && export DOCKER_HOST={own}")
    try:
        group = grp.getgrgid(Path(path).stat().st_gid)
    except (OSError, KeyError):
        return Finding("daemon", text, f"sudo ls -ld {Path(path).parent} {path}")
    text += f" (group {group.gr_name})"
    if user in group.gr_mem:
        text += "; the user is in that group, but not since this log-in"
        return Finding("daemon", text, f"newgrp {group.gr_name}")
    if group.gr_gid == 0:
        text += "; Docker usually gives its socket to a group docker"
        mend = f"sudo groupadd -f docker && sudo chgrp docker {path} && "
        return Finding("daemon", text, f"{mend}sudo usermod -aG docker {user}")
    mend = f"sudo usermod -aG {group.gr_name} {user} && newgrp {group.gr_name}"
    return Finding("daemon", text, mend)


def check_disk(info: EngineInfo, *, here: bool) -> Finding:
    """Whether the daemon has room for images and containers."""
    folder, make_room = info.root_dir, _MAKE_ROOM.format(info.product.lower())
    if not here or not Path(folder).is_dir():
        text = f"the daemon keeps its data in {folder} of another machine: not looked at"
        return Finding("disk", text)
    try:
        free = shutil.disk_usage(folder).free
        inodes = os.statvfs(folder)
    except OSError as error:
        return Finding("disk", f"{folder} cannot be looked at: {error.strerror}")
    text = f"{free / 1e9:.1f} GB free in {folder}"
    if free < LEAST_SPACE:
        text += f"; at least {LEAST_SPACE / 1e9:.1f} GB are needed"
        return Finding("disk", text, make_room)
    if inodes.f_files and inodes.f_favail < LEAST_INODES:
        return Finding("disk", f"{text}, but only {inodes.f_favail} more files", make_room)
    return Finding("disk", text)


def check_images(engine: Engine, settings: Settings) -> Iterator[Finding]:
    """Whether there is a lock file, and the locked bytes of every image."""
    try:
        lock = find_lock(settings)
    except LockError as error:
        yield Finding("lock", str(error), "correct the file; git diff shows how")
        return
    where = "the packaged one (no images.lock found)" if lock.is_default else str(lock.path)
    yield Finding("lock", f"{where}: {len(lock.entries)} images")
    missing: list[str] = []
    other: list[str] = []
    for image in lock.entries.values():
        try:
            found = find_image(engine.images.find, image, settings=settings)
        except EngineError as error:
            yield _refusal("images", str(error), paths=["/images"])
            return
        if found.info is None:
            (other if found.other else missing).append(image.reference.familiar)
    parts = [f"not on this machine: {', '.join(missing)}"] if missing else []
    if other:
        parts.append(f"here with other bytes than the locked ones: {', '.join(other)}")
    text = "\n".join(parts) or "all here, with the locked bytes"
    yield Finding("images", text, "python -m orchestrator pull" if parts else "")


def check_leftovers(engine: Engine) -> Finding:
    """Whether dead processes left containers, networks or volumes."""
    try:
        found = inventory(engine)
    except EngineError as error:
        return _refusal("leftover", str(error), paths=[f"/{kind}s" for kind in KINDS])
    left = [thing for thing in found.things if thing.owner is Liveness.DEAD and not thing.kept]
    parts = [f"{len(left)} containers, networks or volumes of dead processes"] if left else []
    if found.refused:
        parts += [f"not known of {kind}s: {reason}" for kind, reason in found.refused.items()]
        return _refusal("leftover", "\n".join(parts), paths=[f"/{kind}s" for kind in found.refused])
    mend = "python -m orchestrator reap" if left else ""
    kept = {thing.test_class for thing in found.things if thing.kept}
    if kept:
        parts.append(f"kept until `reap`, because they failed: {', '.join(sorted(kept))}")
    return Finding("leftover", "\n".join(parts) or "none", mend)


def check_credentials() -> Iterator[Finding]:
    """Whether docker's configuration can be read and its credential helpers are installed."""
    folder = os.environ.get("DOCKER_CONFIG") or Path(os.environ.get("HOME", "/")) / ".docker"
    path = Path(folder) / "config.json"
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
        helpers = {config.get("credsStore"), *(config.get("credHelpers") or {}).values()}
    except FileNotFoundError:
        return
    except OSError as error:
        text = f"{path} cannot be read: {error.strerror}"
        yield Finding("docker", text, f"sudo chown -R $USER {path.parent}")
        return
    except (ValueError, AttributeError, TypeError) as error:
        text = f"{path} is not what docker writes there: {error}"
        yield Finding("docker", text, f"mv {path} {path}.bad; docker login")
        return
    for helper in sorted(str(name) for name in helpers if name):
        program = f"docker-credential-{helper}"
        if shutil.which(program) is None:
            text = f"{path} names the credential helper {program}, which is not installed"
            yield Finding("docker", text, f"install {program}, or edit {path}")
