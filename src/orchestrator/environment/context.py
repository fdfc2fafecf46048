"""`StartContext`: what the services of one class share, and everything that was made for them."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import itertools
import logging
import random
import re
import socket
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from orchestrator.engine.api import ContainerSpec, Copy, Label, VolumeMount
from orchestrator.engine.endpoint import routes
from orchestrator.environment.timeline import OF_CLASS
from orchestrator.errors import EngineError, OrchestratorError, ReapError, printable
from orchestrator.images import ensure_image, resolve_image
from orchestrator.services.once import OwnStack, ProcessLock, locked_property
from orchestrator.services.options import masked
from orchestrator.sessions import Thing, departed, own_session, remove_things

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from orchestrator.engine.docker import Engine
    from orchestrator.environment.late_engine import LateEngine
    from orchestrator.environment.timeline import Timeline
    from orchestrator.images.lockfile import LockFile
    from orchestrator.services.hooks import Network, Volume
    from orchestrator.services.service import Service
    from orchestrator.sessions import Session
    from orchestrator.settings import Settings

_REMOVAL: Final = 15.0  # seconds for what the daemon refuses to remove at first
_LAST_LINES: Final = 5.0  # seconds for a log to be read to its end
_RESTART: Final = 0.2  # seconds between two looks at a container that may be started again
_HELPER_MEMORY: Final = 256 << 20
_HELPER_PIDS: Final = 16
_UNFIT: Final = re.compile(r"[^\w.<>-]")  # for a file name; <locals> stands in many
_LONGEST_NAME: Final = 200  # bytes; file systems end at 255
_log: Final = logging.getLogger("orchestrator.environment")
PREFIX: Final = 27  # 29 containers beside the gateway; a class has a handful
_ATTEMPTS: Final = 64
# What daemons since 20.10 say: the first when the default pools end (about 30 networks), the
# others when somebody else took the subnet between our look and our create.
_USED_UP: Final = re.compile(r"(?i)could not find an available|all predefined address pools")
_OVERLAP: Final = re.compile(r"(?i)overlaps with other one|pool overlaps|invalid pool request")


@dataclass(frozen=True, kw_only=True)
class StartContext:
    """Where the services of one class are started; it removes what was made there."""

    engine: LateEngine
    settings: Settings
    lock: LockFile
    test_class: str  # its full name; empty for what outlives it
    network: str = ""  # empty where none is needed
    stopping: threading.Event = field(default_factory=threading.Event)  # nobody waits any more
    bound: list[Service] = field(default_factory=list)  # what has a container, ready or not
    failed: threading.Event = field(default_factory=threading.Event)  # one of its tests, or a start
    told: threading.Event = field(default_factory=threading.Event)  # that they stay
    timeline: Timeline | None = None
    _followers: list[threading.Thread] = field(default_factory=list)
    _made: list[tuple[str, str]] = field(default_factory=list)  # kind and name of each
    _parts: dict[str, str] = field(default_factory=dict)  # names of volumes and networks, by key
    _lock: ProcessLock = field(default_factory=ProcessLock)

    @locked_property
    def session(self) -> Session:
        """Who owns what is made here; where all is ready, nothing may be."""
        return own_session(self.engine, settings=self.settings)

    def for_test(self) -> StartContext:
        """The same for one test: what is made there is removed after it."""
        return replace(
            self,
            stopping=threading.Event(),
            failed=threading.Event(),
            told=threading.Event(),
            bound=[],
            timeline=None,
            _followers=[],
            _made=[],
            _parts={},
        )

    def span(self, row: str, phase: str) -> AbstractContextManager[None]:
        """Record in the timeline, if there is one, how long the block takes."""
        return self.timeline.span(row, phase) if self.timeline else contextlib.nullcontext()

    def follow(self, handle: Service) -> None:
        """Give the container's log to the logger that is declared, until it is removed."""
        if handle.log_to is not None:
            thread = threading.Thread(
                target=_follow, args=[handle], name=f"orchestrator-log-{handle.alias}", daemon=True
            )
            self._followers.append(thread)
            thread.start()

    def labels(self, *, service: str | None = None, scope: str | None = None) -> Mapping[str, str]:
        """What everything made here is labelled with."""
        return self.session.labels(test_class=self.test_class or None, service=service, scope=scope)

    @contextlib.contextmanager
    def creating(self, kind: str, name: str) -> Iterator[None]:
        """Stands around the call that creates something, which `clear` removes from then on."""
        self._made.append((kind, name))
        with self.session.creating(kind, name):
            yield

    def create_network(self) -> None:
        """Create the network, which `clear` removes from then on."""
        with self.span(OF_CLASS, "network"):
            self._create_network(self.network)

    def _create_network(self, name: str, *, internal: bool = False) -> None:
        labels, pool = self.labels(scope="class"), self.settings.subnets
        with self.creating("network", name):
            create_private_network(self.engine, name, labels=labels, pool=pool, internal=internal)

    def further_network(self, network: Network) -> str:
        """The name of a network beside the class's own, created when first asked for."""
        with self._lock.held():
            if (key := f"network {network.key}") not in self._parts:
                name = self._parts[key] = self.session.name("network")
                self._create_network(name, internal=network.internal)
        return self._parts[key]

    def volume(self, volume: Volume, *, image: str) -> str:
        """The name of a volume, created and filled when first asked for.

        It is filled through a container of the image that never runs, at the path where services
        find it, so that it may be read-only for them.
        """
        with self._lock.held():
            if volume.key in self._parts:
                return self._parts[volume.key]
            name = self._parts[volume.key] = self.session.name("volume")
            with self.creating("volume", name):
                self.engine.create_volume(name, labels=self.labels(scope="class"))
            if volume.content:
                mount = VolumeMount(volume=name, path=volume.path, no_copy=volume.no_copy)
                content = [*volume.content, *self.engine.files.mount_points(volume.path)]
                with self.filler(mount, image=image) as filler:
                    self.engine.files.copy_into(filler, content)
            return name

    @contextlib.contextmanager
    def filler(self, mount: VolumeMount, *, image: str) -> Iterator[str]:
        """Create a container that never runs, through which a volume is filled; its name."""
        name = self.session.name("filler")
        spec = ContainerSpec(
            name=name,
            image=image,
            labels=self.labels(scope="class"),
            entrypoint=["/"],
            volumes=[mount],
        )
        with self.creating("container", name):
            self.engine.create_container(spec)
        try:
            yield name
        finally:
            self.remove_container(name)

    def remove_container(self, name: str) -> None:
        """Remove one container before the rest."""
        self._remove([("container", name)])
        self._made.remove(("container", name))

    def outlive(self, kind: str, name: str) -> None:
        """Let something go with the session instead."""
        self._made.remove((kind, name))

    def clear(self) -> None:
        """Have everything made here removed: containers side by side, then the network.

        Nobody waits for it here, unless there is no watchdog to do it: `left_behind` does. With
        ORCHESTRATOR_KEEP_FAILED, what has failed stays. What would not go is a ReapError.
        """
        if self._made and self.settings.keep_failed and self.failed.is_set():
            try:
                self._keep()
            except EngineError as error:
                _log.warning("nothing is kept of %s: %s", self.test_class, error)
            else:
                return
        try:
            made = [Thing(kind, name, name) for kind, name in sorted(self._made)]
            if made and self.session.departing.hand_over(
                made, test_class=self.test_class, seconds=_REMOVAL
            ):
                self._made.clear()
            else:
                self._remove(sorted(self._made))
        finally:
            for follower in self._followers:
                follower.join(_LAST_LINES)

    def _keep(self) -> None:
        """Let what was made here outlive this process, and say how to look into it.

        A volume says so to whoever would remove it: labels cannot be changed, and one create is
        done or not. Until then all of it goes with this process, however that ends.
        """
        marker = self.session.name("kept")
        made = " ".join(f"{kind}:{name}" for kind, name in self._made)
        with self.session.creating("volume", marker):
            self.engine.create_volume(marker, labels={**self.labels(), Label.KEPT: made})
        for name in (marker, *(name for _, name in self._made)):
            self.session.forget(name)
        text = self.how_to_look()
        self._made.clear()
        if text and not self.told.is_set():
            with contextlib.suppress(OSError, ValueError, AttributeError):  # no stderr is left
                sys.stderr.write(f"orchestrator: {text}\n")
                sys.stderr.flush()

    def how_to_look(self) -> str:
        """The commands that look into what stays, when something has failed."""
        lines = [
            f"  {handle.alias}: docker exec -it {handle.running.container} "
            f"{handle.server_shell()}; "
            f"docker logs {handle.running.container}"
            for handle in self.bound
            if ("container", handle.running.container) in self._made
        ]
        head = f"{self.test_class or 'what'} has failed, and its servers stay until its next run, "
        return "\n".join([f"{head}or: python -m orchestrator reap", *lines]) if lines else ""

    def keep_logs(self) -> None:
        """Write what each service has logged, secrets masked, to the folder of ORCHESTRATOR_LOGS.

        A file that cannot be written is logged, not raised: the services still have to go.
        """
        if (folder := self.settings.logs) is None:
            return
        for handle in self.bound:
            try:
                text, alias = handle.logs(), handle.alias
                write_log(folder, test_class=self.test_class, alias=alias, text=text)
            except (OrchestratorError, OSError) as error:
                _log.warning("the log of %s was not kept: %s", handle.alias, error)

    @contextlib.contextmanager
    def helper_container(
        self, beside: str, /, *, entry: str, files: Mapping[str, bytes], **more: Any
    ) -> Iterator[str]:
        """Run an entry of images.lock in the network namespace of a container; its name.

        It may do there what that container has no right to.
        """
        locked = resolve_image(None, default=entry, lock=self.lock, settings=self.settings)
        image = ensure_image(self.engine, locked, settings=self.settings)
        name = self.session.name("helper")
        spec = ContainerSpec(
            name=name,
            image=image.id,
            labels=self.labels(scope="test"),
            joins=beside,
            user="0",
            memory=_HELPER_MEMORY,
            pids=_HELPER_PIDS,
            **more,
        )
        with OwnStack() as undo:
            with self.creating("container", name):
                undo.callback(self.remove_container, name)
                self.engine.create_container(spec)
            self.engine.files.copy_into(
                name, [Copy(path=at, source=it) for at, it in files.items()]
            )
            self.engine.start_container(name)
            yield name

    def _remove(self, made: Sequence[tuple[str, str]]) -> None:
        things = [Thing(kind, name, name) for kind, name in made]
        left = remove_things(self.engine, things, seconds=_REMOVAL)
        for name in {thing.name for thing in things} - {thing.name for thing in left}:
            self.session.forget(name)
        if left:
            raise _not_removed(left, test_class=self.test_class)


def _not_removed(left: Iterable[Thing], *, test_class: str) -> ReapError:
    return ReapError(
        f"{test_class or 'process'}: not everything could be removed; "
        "`python -m orchestrator reap` tries again:\n"
        + "\n".join(f"  {thing.reason}" for thing in left)
    )


def left_behind(*, test_class: str | None = None) -> Mapping[str, ReapError]:
    """Wait for what is being removed; what would not go, by class, each told once.

    Args:
        test_class: Only what is of this class, and then its networks too, which else may be left
            to the watchdog where that outlives this process.
    """
    left = departed(test_class=test_class)
    return {name: _not_removed(things, test_class=name) for name, things in left.items()}


def write_log(folder: Path, *, test_class: str, alias: str, text: str) -> None:
    """Add to the file of one service of one test class; what belongs to none is in ``process``."""
    whole = test_class or "process"
    # A class made with type() may be called anything; this is one folder below.
    name = _UNFIT.sub("_", whole).encode()[:_LONGEST_NAME].decode(errors="ignore")
    if name != whole or not name.strip("."):
        name += f"-{hashlib.sha256(whole.encode(errors='replace')).hexdigest()[:8]}"
    path = folder / name / f"{alias}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


def _follow(handle: Service) -> None:
    """Log each line of a container, secrets masked, until it is gone; a restart does not end it."""
    running, last, is_read, to = handle.running, "", False, handle.log_to
    logger = to if isinstance(to, logging.Logger) else logging.getLogger(to)
    try:
        while (state := handle.state()) is not None:
            if state.ended and is_read:
                time.sleep(_RESTART)
                continue
            for at, line in running.engine.follow_logs(running.container, after=last):
                last = at
                logger.info("%s: %s", running.alias, printable(masked(line, handle.secrets())))
            is_read = True
    except EngineError as error:
        _log.debug("the log of %s ends here: %s", running.alias, error)


def create_private_network(
    engine: Engine,
    name: str,
    *,
    labels: Mapping[str, str],
    pool: ipaddress.IPv4Network,
    internal: bool = False,
) -> str:
    """Create a bridge network: its id. With Docker's address pools used up, from this one."""
    try:
        return engine.create_network(name, labels=labels, internal=internal)
    except EngineError as error:
        if not _USED_UP.search(str(error)):
            raise
    of_daemon = [ipaddress.IPv4Network(subnet) for subnet in engine.subnets() if ":" not in subnet]
    taken = [*(route.destination for route in routes() if not route.is_default), *of_daemon]
    for subnet in itertools.islice(free_subnets(pool, taken=taken), _ATTEMPTS):
        try:
            return engine.create_network(name, labels=labels, subnet=str(subnet), internal=internal)
        except EngineError as error:
            if not _OVERLAP.search(str(error)):
                raise
    raise EngineError(
        f"No free subnet for network {name}: Docker's address pools are used up, and so is {pool}. "
        "Remove networks (`python -m orchestrator reap`, `docker network prune`), or set "
        "ORCHESTRATOR_SUBNETS to a larger range."
    )


def free_subnets(
    pool: ipaddress.IPv4Network, *, taken: Iterable[ipaddress.IPv4Network]
) -> Iterator[ipaddress.IPv4Network]:
    """Subnets that overlap nothing taken; from a random place on, as many choose at once."""
    busy = [network for network in taken if network.overlaps(pool)]
    step = 1 << (32 - PREFIX)
    count = pool.num_addresses // step
    first = random.randrange(count)  # noqa: S311 - spreads load, protects nothing
    for number in range(count):
        address = int(pool.network_address) + (first + number) % count * step
        subnet = ipaddress.IPv4Network((address, PREFIX))
        if not any(subnet.overlaps(network) for network in busy):
            yield subnet


def free_port(bind_address: str) -> int:
    """A port that was free a moment ago; chosen before the create, it never changes."""
    family = socket.AF_INET6 if ":" in bind_address else socket.AF_INET
    with socket.socket(family) as listener:
        try:
            listener.bind((bind_address, 0))
        except OSError:  # the address is the daemon's machine's, not ours: any port is a guess
            listener.bind(("", 0))
        return int(listener.getsockname()[1])
