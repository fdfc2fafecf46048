"""What `doctor` examines beside the daemon itself."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.cli.checkup_daemon import refusal
from orchestrator.cli.finding import Finding
from orchestrator.engine.api import KINDS
from orchestrator.errors import EngineError, LockError
from orchestrator.images import find_lock
from orchestrator.images.mirrors import mirrored
from orchestrator.images.presence import find_image
from orchestrator.sessions import Liveness, inventory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.engine.api import EngineInfo
    from orchestrator.engine.docker import Engine
    from orchestrator.engine.endpoint import Endpoint
    from orchestrator.settings import Settings

# Postgres, Redis and Kafka take about 1 GB unpacked, their data and logs the rest.
LEAST_SPACE: Final = 2 << 30  # bytes
LEAST_INODES: Final = 50_000


def check_disk(info: EngineInfo, endpoint: Endpoint) -> Finding:
    """Whether the daemon has room for images and containers."""
    folder = info.root_dir
    if endpoint.socket is None or not Path(folder).is_dir():
        text = f"the daemon keeps its data in {folder} of another machine: not looked at"
        return Finding(about="disk", text=text)
    try:
        free = shutil.disk_usage(folder).free
        inodes = os.statvfs(folder)
    except OSError as error:
        return Finding(about="disk", text=f"{folder} cannot be looked at: {error.strerror}")
    text = f"{free / 1e9:.1f} GB free in {folder}"
    if free < LEAST_SPACE:
        text += f"; at least {LEAST_SPACE / 1e9:.1f} GB are needed"
        return Finding(about="disk", text=text, mend=_MAKE_ROOM)
    if inodes.f_files and inodes.f_favail < LEAST_INODES:
        text += f", but only {inodes.f_favail} more files"
        return Finding(about="disk", text=text, mend=_MAKE_ROOM)
    return Finding(about="disk", text=text)


_MAKE_ROOM: Final = "docker system df; python -m orchestrator reap; docker image prune --all"


def check_images(engine: Engine, settings: Settings) -> Iterator[Finding]:
    """Whether there is a lock file, and the locked bytes of every image."""
    try:
        lock = find_lock(settings)
    except LockError as error:
        yield Finding(about="lock", text=str(error), mend="correct the file; git diff shows how")
        return
    where = "the packaged one (no images.lock found)" if lock.is_default else str(lock.path)
    yield Finding(about="lock", text=f"{where}: {len(lock.entries)} images")
    missing: list[str] = []
    other: list[str] = []
    for image in lock.entries.values():
        source = mirrored(image.reference, settings=settings)
        try:
            found = find_image(engine.images, image, mirrored=source)
        except EngineError as error:
            yield refusal("images", str(error), paths=["/images"])
            return
        if found.info is None:
            (other if found.other else missing).append(image.reference.familiar)
    parts = []
    if missing:
        parts.append(f"not on this machine: {', '.join(missing)}")
    if other:
        parts.append(f"here with other bytes than the locked ones: {', '.join(other)}")
    if parts:
        yield Finding(about="images", text="\n".join(parts), mend="python -m orchestrator pull")
    else:
        yield Finding(about="images", text="all here, with the locked bytes")


def check_leftovers(engine: Engine) -> Finding:
    """Whether dead processes left containers, networks or volumes."""
    try:
        found = inventory(engine)
    except EngineError as error:
        return refusal("leftover", str(error), paths=[f"/{kind}s" for kind in KINDS])
    left = [thing for thing in found.things if thing.owner is Liveness.DEAD]
    told = [f"{len(left)} containers, networks or volumes of dead processes"] if left else []
    if found.refused:
        told += [f"not known of {kind}s: {reason}" for kind, reason in found.refused.items()]
        return refusal("leftover", "\n".join(told), paths=[f"/{kind}s" for kind in found.refused])
    mend = "python -m orchestrator reap" if left else ""
    return Finding(about="leftover", text="\n".join(told) or "none", mend=mend)


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
        yield Finding(about="docker", text=text, mend=f"sudo chown -R $USER {path.parent}")
        return
    except (ValueError, AttributeError, TypeError) as error:
        text = f"{path} is not what docker writes there: {error}"
        yield Finding(about="docker", text=text, mend=f"mv {path} {path}.bad; docker login")
        return
    for helper in sorted(str(name) for name in helpers if name):
        program = f"docker-credential-{helper}"
        if shutil.which(program) is None:
            text = f"{path} names the credential helper {program}, which is not installed"
            yield Finding(about="docker", text=text, mend=f"install {program}, or edit {path}")
