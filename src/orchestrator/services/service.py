"""`Service`: what a test class declares; while it runs, a copy with its container: its *handle*."""

from __future__ import annotations

import functools
import graphlib
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, get_args

from orchestrator.errors import DeclarationError, ServiceNotRunningError, did_you_mean
from orchestrator.services import faults, files, options
from orchestrator.services.hooks import Hooks, address, declared_as, enter_alone, leave_alone
from orchestrator.services.once import ProcessLock, locked_property
from orchestrator.services.options import Scope, masked

if TYPE_CHECKING:
    import logging
    from datetime import datetime
    from pathlib import Path

    from orchestrator.engine.api import ContainerState, ExecResult
    from orchestrator.services.files import File
    from orchestrator.services.hooks import Runtime

AnyService = TypeVar("AnyService", bound="Service")
_LIVES: Final = ("test", "class", "process", "run")  # each as long as the next, or shorter
_LEAST_MEMORY: Final = 6 << 20  # Docker refuses a smaller limit


class Service(Hooks):
    """A server in a container, for one test class.

    Attributes:
        image: A reference, or the name of an entry of images.lock; the service's own entry without.
        env: Environment variables of the container, over the service's own.
        command: Replaces the container's command.
        memory: The most memory it may use: bytes, or text such as ``"512m"``.
        cpus: The most processors it may use, such as ``0.5``.
        startup_timeout: Seconds it has to become ready.
        pids: The most processes and threads it may have; None for no limit.
        shm_size: How large ``/dev/shm`` may grow: Docker's own 64 MiB is too little for parallel
            queries of Postgres.
        tmpfs: Container path to the size of a file system in memory, which ``restart`` empties; or
            to its mount options, as in ``"size=64m,exec,mode=0770,uid=1000"``.
        log_to: A logger, or its name, that is given each line of the container's log.
        files: Container path to a host path, bytes or `File`, written before the container starts.
        scope: How long the container lives: ``"class"``, ``"test"``, ``"process"`` or ``"run"``.
        depends_on: Services (or their names) that must be ready before this one starts.
    """

    image: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] | None = None
    memory: int | str | None = None
    cpus: float | None = None
    pids: int | None = 4096
    shm_size: int | str = 256 << 20
    tmpfs: Mapping[str, int | str] = field(default_factory=dict)
    log_to: logging.Logger | str | None = None
    startup_timeout: float = 60.0
    files: Mapping[str, str | Path | bytes | File] = field(default_factory=dict)
    scope: Scope = "class"
    depends_on: Sequence[Service | str] = ()
    _runtime: Runtime | None = options.private(None)

    def __post_init__(self) -> None:
        self._check_common()
        self.check_options()

    # What a test uses

    @property
    def host(self) -> str:
        """The address of the published ports."""
        return self.running.engine.host

    @property
    def port(self) -> int:
        """The published main port."""
        for port in self.running.ports.values():
            return port
        raise DeclarationError(f"{self.alias} publishes no port; give it ports=[…]")

    def port_of(self, container_port: int | str) -> int:
        """Where a container port such as ``5432`` or ``"53/udp"`` is published."""
        name = container_port if isinstance(container_port, str) else f"{container_port}/tcp"
        if name not in (ports := self.running.ports):
            raise DeclarationError(
                f"{self.alias} does not publish port {name}; it publishes {', '.join(ports)}"
            )
        return ports[name]

    @property
    def url(self) -> str:
        """Where a program on this machine finds the server."""
        return f"{self.url_scheme}://{address(self.host, self.port)}"

    @property
    def internal_url(self) -> str:
        """Where another container of the class finds the server."""
        return f"{self.url_scheme}://{self.alias}:{self.container_port}"

    @property
    def alias(self) -> str:
        """Its attribute's name, which is its DNS name on the class's network."""
        return self.running.alias

    @property
    def container_id(self) -> str:
        """The id of its container."""
        return self.running.container_id

    def logs(self, tail: int | None = None, *, since: datetime | None = None) -> str:
        """What the container wrote, secrets masked.

        Args:
            tail: Only so many of the last lines.
            since: Only what was written from then on, by this machine's clock.
        """
        from datetime import datetime  # not at import: declaring loads no more than it needs

        if tail is not None and not (type(tail) is int and tail >= 0):
            raise DeclarationError(f"logs(tail={tail!r}) cannot be used: expected a count of lines")
        if since is not None and not isinstance(since, datetime):
            raise DeclarationError(f"logs(since={since!r}) cannot be used: expected a datetime")
        running = self.running
        after = running.log_start
        text = running.engine.logs(running.container, tail=tail, since=since, after=after)
        return masked(text, self.secrets())

    def exec(
        self,
        argv: Sequence[str],
        *,
        user: str | int | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | bytes | None = None,
    ) -> ExecResult:
        """Run a command in the container and wait for it.

        It may be silent for ``ORCHESTRATOR_ENGINE_TIMEOUT`` seconds at most.

        Args:
            argv: The command and its arguments; no shell sees them.
            user: Who runs it, such as ``"postgres"``, ``0`` or ``"1000:1000"``; without, the user
                of the container.
            workdir: Where it runs; without, in the container's own folder.
            env: Environment variables, over the container's.
            stdin: What it reads, as bytes or as text in UTF-8; nothing without.

        Raises:
            DeclarationError: An argument cannot be used.
            EngineError: It could not be run, or did not end in time.
        """
        options.check_exec(argv, workdir=workdir, env=env)
        if user is not None:
            files.check_owner(user, "exec(user=…)")
        return self.running.engine.exec(
            self.running.container,
            argv,
            user="" if user is None else str(user),
            workdir=workdir,
            env=env,
            stdin=None if stdin is None else options.in_utf8(stdin, "exec(stdin=…)"),
        )

    def read_file(self, path: str) -> bytes:
        """The content of a file in the container, whoever may read it there.

        Raises:
            ServiceError: There is no such file, or it is a folder.
        """
        return files.read(self.running, path, mounted=self._mounted())

    def write_file(
        self, path: str, content: str | bytes, *, mode: int | None = None, owner: int | str = 0
    ) -> None:
        """Write a file into the container, over one that is there; its folder is made if need be.

        Args:
            path: Its absolute path in the container.
            content: Bytes, or text that is written in UTF-8.
            mode: As of a `File`.
            owner: As of a `File`.

        Raises:
            DeclarationError: An argument cannot be used.
            ServiceError: It cannot be written there, such as over a folder.
        """
        mounted = self._mounted()
        files.write(self.running, path, content, mode=mode, owner=owner, mounted=mounted)

    def _mounted(self) -> Sequence[str]:
        """Where something is mounted that the engine does not see."""
        return [*self.tmpfs, *self.server_tmpfs(), *self.server_links()]

    def info(self) -> dict[str, object]:
        """To print when a test fails: image, host, ports, peak memory, what the server says."""
        peak = self.running.engine.peak_memory(self.running.container)
        return {
            "image": self.image,
            "host": self.host,
            "ports": dict(self.running.ports),
            "container": self.container_id[:12],
            **({} if peak is None else {"peak_memory": peak}),
            **self.server_info(),
        }

    # Faults

    paused = faults.of_own(faults.paused)
    partitioned = faults.of_own(faults.partitioned)
    slowed = faults.of_own(faults.slowed)
    kill = faults.of_own(faults.kill)
    restart = faults.of_own(faults.restart)

    # Alone

    def __enter__(self) -> Self:
        """Start this service alone, where no class declares it: its handle, with clean state."""
        alias = type(self).__name__.lower()
        alias = alias if alias.isascii() else "service"
        if self._runtime is not None:
            raise DeclarationError(f"{self.alias} runs already: use it as it is, without `with`")
        if place := declared_as(self):
            raise DeclarationError(
                f"{place} runs with its class; `with` is for a service that no class declares"
            )
        return enter_alone(self, {alias: self})[self]

    def __exit__(self, *error: object) -> None:
        leave_alone(self, *error)

    # What hooks work with

    @property
    def running(self) -> Runtime:
        """The container behind this handle; ServiceNotRunningError where this is a declaration."""
        if self._runtime is None:
            raise ServiceNotRunningError(_why_not_running(self), service=declared_as(self))
        return self._runtime

    def state(self) -> ContainerState | None:
        """The container now, or None when it is gone."""
        return self.running.engine.container(self.running.container)

    def copy_with(self, **changes: Any) -> Self:
        """A copy with other attributes; what the original opened and cached stays with it."""
        copy = object.__new__(type(self))  # checked when declared
        for name, value in {**self.__getstate__(), **changes}.items():
            object.__setattr__(copy, name, value)
        return copy

    def secrets(self) -> Sequence[str]:
        """What is never shown in logs, errors and info: its passwords, also as URLs spell them."""
        random = self._runtime.password if self._runtime else None
        declared = getattr(self, "password", None)
        return [text for password in (random, declared) for text in options.spellings(password)]

    # How it is declared and bound

    def _check_common(self) -> None:
        """Check the options every service has, and turn sizes into bytes once and for all."""
        check = functools.partial(options.check, self)
        options.check_image(self, self.image)
        options.check_environment(self, "env", self.env)
        options.check_words(self, "command", self.command)
        check("cpus", self.cpus is None or options.is_positive(self.cpus), "more than 0")
        check("startup_timeout", options.is_positive(self.startup_timeout), "seconds, above 0")
        pids = self.pids
        check("pids", pids is None or (type(pids) is int and pids > 0), "a count, above 0")
        expected = "bytes, or text such as '512m'; at least 6m"
        memory = _LEAST_MEMORY if self.memory is None else options.in_bytes(self.memory)
        check("memory", memory >= _LEAST_MEMORY, expected)
        check("shm_size", options.in_bytes(self.shm_size) > 0, "bytes, or text such as '256m'")
        log_to = self.log_to  # a logger, without the import of logging
        good = log_to is None or options.is_text(log_to) or hasattr(log_to, "handle")
        check("log_to", good, "a logger, or a logger's name")
        files.check_tmpfs(self, self.tmpfs)
        files.check_files(self, self.files, mounted=self.tmpfs)
        options.choice(self, "scope", self.scope, get_args(Scope))
        if self.scope == "run" and log_to is not None:
            raise DeclarationError(
                f"{type(self).__name__}(log_to=…) cannot be used with scope='run', where another "
                "process has the server: ORCHESTRATOR_LOGS keeps its log"
            )
        needs = self.depends_on
        good = isinstance(needs, Sequence) and not isinstance(needs, str)
        good = good and all(isinstance(it, (str, Service)) for it in needs)
        check("depends_on", good, "a list of services of this class, or of their names")
        options.normalise(
            self,
            memory=None if self.memory is None else memory,
            shm_size=options.in_bytes(self.shm_size),
            tmpfs={path: str(files.tmpfs_options(size)) for path, size in self.tmpfs.items()},
        )

    def _bound(self, runtime: Runtime, /, **changes: Any) -> Self:
        """The handle of a container; an option ``password`` that is None becomes a random one."""
        if getattr(self, "password", "") is None:
            changes = {"password": runtime.password, **changes}
        return self.copy_with(_runtime=runtime, **changes)

    def _joined(self, runtime: Runtime, /) -> Self:
        """The handle for one more class, of a service that lives as long as the process."""
        return self.copy_with(_runtime=runtime)

    @locked_property
    def _lock(self) -> ProcessLock:
        """Guards what this handle makes once of each name, such as its databases."""
        return ProcessLock()


def bind(declaration: AnyService, runtime: Runtime, *, image: str) -> AnyService:
    """The handle of a declaration, for a container of its own that runs this image."""
    return declaration._bound(runtime, image=image)  # noqa: SLF001 - what only we may do


def join(handle: AnyService, runtime: Runtime) -> AnyService:
    """The handle of a running service for one more class, with that class's alias and network."""
    return handle._joined(runtime)  # noqa: SLF001 - what only we may do


def _why_not_running(service: Service) -> str:
    place, kind = declared_as(service), type(service).__name__
    if not place:
        return (
            f"This {kind} is not running. `with {kind}(…) as it:` runs it alone; beside others, "
            "it stands in the body of a class with ServicesMixin or Services, as in "
            f"`name = {kind}(…)`."
        )
    if service.scope == "test":
        return (
            f'{place} is not running: with scope="test" it does in each test, or in each '
            "`isolated(…)` of its Services, only."
        )
    return (
        f"{place} is not running. In a test class with ServicesMixin it runs from setUpClass (a "
        "setUpClass of your own must call super().setUpClass() first) to the class's end; in a "
        f"class of Services, in `with {place.partition('.')[0]}() as it:`, as an attribute of `it`."
    )


def in_order(services: Mapping[str, Service]) -> Mapping[str, Service]:
    """The services, by alias, so that each comes after those it depends on.

    Raises:
        DeclarationError: They depend on one another in a circle, or not as `needed` wants it.
    """
    graph = {alias: needed(alias, services) for alias in services}
    order = graphlib.TopologicalSorter(graph).static_order()
    try:
        return {alias: services[alias] for alias in order}
    except graphlib.CycleError as error:
        raise DeclarationError(
            f"services depend on one another in a circle: {' -> '.join(error.args[1])}"
        ) from None


def memory_needed(service: Service) -> int:
    """The bytes that a class's service may use: its limit, else what its kind usually takes."""
    if service.scope == "run":
        return 0  # it is there anyway, however many classes run at once
    return int(service.memory or service.usual_memory)


def needed(alias: str, services: Mapping[str, Service]) -> Sequence[str]:
    """The aliases of the services that one depends on.

    Raises:
        DeclarationError: The class has no such service, or it does not live as long.
    """
    aliases = {service: name for name, service in services.items()}
    found = []
    for needs in services[alias].depends_on:
        name = needs if isinstance(needs, str) else aliases.get(needs)
        if name is None or name not in services:
            raise DeclarationError(
                f"{alias} depends on {needs!r}, which is not a service of this class"
                f"{did_you_mean(str(needs), services, otherwise='it has')}"
            )
        if _LIVES.index(services[name].scope) < _LIVES.index(services[alias].scope):
            raise DeclarationError(
                f"{alias} (scope {services[alias].scope!r}) depends on {name} (scope "
                f"{services[name].scope!r}), which does not live as long"
            )
        found.append(name)
    return found
