"""`StartContext`: what the services of one class share, and everything that was made for them.

Also what goes with each of them from here on: the thread that follows its log, the file that keeps
the log, the helper container beside it, the class's network and the ports on this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import itertools
import logging
import random
import re
import socket
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import ContainerSpec
from orchestrator.engine.endpoint import routes
from orchestrator.environment.timeline import CLASS
from orchestrator.errors import EngineError, OrchestratorError, ReapError, printable
from orchestrator.images import ensure_image, find_lock, resolve_image
from orchestrator.services.once import OwnStack
from orchestrator.services.secret import masked
from orchestrator.sessions import Thing, remove_things

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from orchestrator.engine.docker import Engine
    from orchestrator.environment.timeline import Timeline
    from orchestrator.services.service import Service
    from orchestrator.sessions import Session
    from orchestrator.settings import Settings

_NO_SPAN: Final = contextlib.nullcontext()
_REMOVAL: Final = 15.0  # seconds for what the daemon refuses to remove at first
_LAST_LINES: Final = 5.0  # seconds for a log to be read to its end
_RESTART: Final = 0.2  # seconds between two looks at a container that may be started again
_HELPER_MEMORY: Final = 256 << 20
_HELPER_PIDS: Final = 16
_UNFIT: Final = re.compile(r"[^\w.<>-]")  # for a file name; <locals> stands in many
_LONGEST_NAME: Final = 200  # bytes; file systems end at 255
_log: Final = logging.getLogger("orchestrator.environment")

# Of the class's network.
PREFIX: Final = 27  # 29 containers beside the gateway; a class has a handful
_ATTEMPTS: Final = 64
# What daemons since 20.10 say: the first when the default pools end (about 30 networks), the
# others when somebody else took the subnet between our look and our create.
_USED_UP: Final = ("could not find an available", "all predefined address pools")
_OVERLAP: Final = ("overlaps with other one", "pool overlaps", "invalid pool request")


@dataclass(frozen=True, kw_only=True)
class StartContext:
    """Where the services of one class are started; it removes what was made there.

    Attributes:
        test_class: The class's full name; empty for what outlives it.
        network: The name of its network.
        stopping: Set when nobody waits for the start any more.
        bound: Every service that was given a container, ready or not.
        timeline: Where the start is recorded, or None.
    """

    engine: Engine
    session: Session
    settings: Settings
    test_class: str
    network: str
    stopping: threading.Event = field(default_factory=threading.Event)
    bound: list[Service] = field(default_factory=list)
    timeline: Timeline | None = None
    _followers: list[threading.Thread] = field(default_factory=list)
    _made: list[tuple[str, str]] = field(default_factory=list)  # kind and name of each

    def for_test(self) -> StartContext:
        """The same for one test: what is made there is removed after it."""
        return replace(
            self, stopping=threading.Event(), bound=[], timeline=None, _followers=[], _made=[]
        )

    def span(self, row: str, phase: str) -> AbstractContextManager[None]:
        """Record in the timeline, if there is one, how long the block takes."""
        return _NO_SPAN if self.timeline is None else self.timeline.span(row, phase)

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

    def creating_container(self, name: str) -> AbstractContextManager[None]:
        """Stands around the call that creates a container, which `clear` removes from then on."""
        return self._creating("container", name)

    def create_network(self) -> None:
        """Create the network, which `clear` removes from then on."""
        with self.span(CLASS, "network"), self._creating("network", self.network):
            create_private_network(
                self.engine,
                self.network,
                labels=self.labels(scope="class"),
                pool=self.settings.subnets,
            )

    def remove_container(self, name: str) -> None:
        """Remove one container before the rest.

        Raises:
            ReapError: It would not go.
        """
        self._remove([("container", name)])
        self._made.remove(("container", name))

    def clear(self) -> None:
        """Remove everything made here: containers side by side, then the network.

        Raises:
            ReapError: Something would not go; the message names each, and why.
        """
        try:
            self._remove(sorted(self._made))
        finally:
            for follower in self._followers:
                follower.join(_LAST_LINES)

    def keep_logs(self) -> None:
        """Write what each service has logged, secrets masked, to the folder of ORCHESTRATOR_LOGS.

        A file that cannot be written is logged, not raised: the services still have to go.
        """
        if self.settings.logs is None:
            return
        for handle in self.bound:
            try:
                text, name = handle.logs(), self.test_class
                write_log(self.settings.logs, test_class=name, alias=handle.alias, text=text)
            except (OrchestratorError, OSError) as error:
                _log.warning("the log of %s was not kept: %s", handle.alias, error)

    @contextlib.contextmanager
    def helper_container(
        self,
        beside: str,
        /,
        *,
        entry: str,
        command: Sequence[str],
        files: Mapping[str, bytes],
        capabilities: Sequence[str],
        devices: Sequence[str],
    ) -> Iterator[str]:
        """Run a container in the network namespace of another while the block runs; its name.

        It may do there what the other has no right to.

        Args:
            beside: The other container.
            entry: The entry of images.lock that it runs.
            command: What it runs.
            files: Container path to content.
            capabilities: What its process may do there.
            devices: Devices of the daemon's machine it may use.

        Raises:
            LockError: The image is not locked.
            EngineError: It could not be started.
        """
        settings = self.settings
        locked = resolve_image(None, default=entry, lock=find_lock(settings), settings=settings)
        image = ensure_image(self.engine, locked, settings=settings)
        name = self.session.name("helper")
        spec = ContainerSpec(
            name=name,
            image=image.id,
            labels=self.labels(scope="test"),
            entrypoint=command[:1],
            command=command[1:],
            joins=beside,
            user="0",
            capabilities=capabilities,
            devices=devices,
            memory=_HELPER_MEMORY,
            pids=_HELPER_PIDS,
        )
        with OwnStack() as undo:
            with self.creating_container(name):
                undo.callback(self.remove_container, name)
                self.engine.create_container(spec)
            self.engine.put_files(name, files)
            self.engine.start_container(name)
            yield name

    @contextlib.contextmanager
    def _creating(self, kind: str, name: str) -> Iterator[None]:
        self._made.append((kind, name))
        with self.session.creating(kind, name):
            yield

    def _remove(self, made: Sequence[tuple[str, str]]) -> None:
        things = [Thing(kind, name, name) for kind, name in made]
        left = remove_things(self.engine, things, seconds=_REMOVAL)
        for name in {thing.name for thing in things} - {thing.name for thing in left}:
            self.session.forget(name)
        if left:
            raise ReapError(
                f"{self.test_class or 'process'}: not everything could be removed; "
                "`python -m orchestrator reap` tries again:\n"
                + "\n".join(f"  {thing.reason}" for thing in left)
            )


def write_log(folder: Path, *, test_class: str, alias: str, text: str) -> Path:
    """Add to the file of one service of one test class; returns its path.

    What belongs to no class has the folder ``process``.

    Raises:
        OSError: It cannot be written.
    """
    path = folder / _folder_name(test_class or "process") / f"{alias}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return path


def _folder_name(test_class: str) -> str:
    """A class's name as one folder below: a class made with ``type()`` may be called anything."""
    name = _UNFIT.sub("_", test_class).encode()[:_LONGEST_NAME].decode(errors="ignore")
    if name == test_class and name.strip("."):
        return name
    return f"{name}-{hashlib.sha256(test_class.encode(errors='replace')).hexdigest()[:8]}"


def _follow(handle: Service) -> None:
    """Log each line of a container, secrets masked, until it is gone; a restart does not end it."""
    running, last = handle.running, ""
    to = handle.log_to
    logger = to if isinstance(to, logging.Logger) else logging.getLogger(to)
    try:
        while (state := handle.state()) is not None:
            if state.ended and last:
                time.sleep(_RESTART)
                continue
            for at, line in running.engine.follow_logs(running.container, after=last):
                last = at
                text = printable(masked(line, handle.secrets()))
                logger.info("%s: %s", running.alias, text)
            last = last or "0"
    except EngineError as error:
        _log.debug("the log of %s ends here: %s", running.alias, error)


def create_private_network(
    engine: Engine, name: str, *, labels: Mapping[str, str], pool: ipaddress.IPv4Network
) -> str:
    """Create a bridge network and return its id.

    Args:
        engine: The daemon.
        name: The network's name.
        labels: Its labels.
        pool: Where explicit subnets come from when Docker's own address pools are used up.

    Raises:
        EngineError: The daemon refused, or the pool is used up too.
    """
    try:
        return engine.create_network(name, labels=labels)
    except EngineError as error:
        if not _says(error, _USED_UP):
            raise
    of_daemon = [ipaddress.IPv4Network(subnet) for subnet in engine.subnets() if ":" not in subnet]
    taken = [*(route.destination for route in routes() if not route.is_default), *of_daemon]
    for subnet in itertools.islice(free_subnets(pool, taken=taken), _ATTEMPTS):
        try:
            return engine.create_network(name, labels=labels, subnet=str(subnet))
        except EngineError as error:
            if not _says(error, _OVERLAP):
                raise
    raise EngineError(
        f"No free subnet for network {name}: Docker's address pools are used up, and so is {pool}. "
        "Remove networks (`python -m orchestrator reap`, `docker network prune`), or set "
        "ORCHESTRATOR_SUBNETS to a larger range."
    )


def _says(error: EngineError, phrases: tuple[str, ...]) -> bool:
    message = str(error).lower()
    return any(phrase in message for phrase in phrases)


def free_subnets(
    pool: ipaddress.IPv4Network, *, taken: Iterable[ipaddress.IPv4Network]
) -> Iterator[ipaddress.IPv4Network]:
    """Subnets of the pool that overlap nothing taken, from a random place onwards.

    Many processes choose at once: a random start makes them meet seldom, and whoever meets
    another takes the next one.
    """
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
    """A port that was free on an address of this machine a moment ago.

    It is chosen before the container is created, so that it never changes. Somebody may take it
    before the daemon publishes it: creating the container is retried then.
    """
    family = socket.AF_INET6 if ":" in bind_address else socket.AF_INET
    with socket.socket(family) as listener:
        try:
            listener.bind((bind_address, 0))
        except OSError:  # the address is the daemon's machine's, not ours: any port is a guess
            listener.bind(("", 0))
        port: int = listener.getsockname()[1]
        return port
