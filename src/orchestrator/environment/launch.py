"""From declarations to ready services: images found or built, containers started and awaited."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import secrets
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import KILLED, TEST_PROCESS, ContainerSpec, Copy, VolumeMount
from orchestrator.environment.context import free_port
from orchestrator.environment.diagnosis import summary
from orchestrator.environment.kept_data import KeptData
from orchestrator.errors import (
    DeclarationError,
    EngineError,
    OrchestratorError,
    ServiceError,
    ServiceExitedError,
)
from orchestrator.images import ensure_image, resolve_image
from orchestrator.images.reference import with_images
from orchestrator.probes.waiting import FROZEN, answers, await_ready, called, exited
from orchestrator.progress import tell, telling
from orchestrator.services.container import Build, Container
from orchestrator.services.files import check_hidden, copies
from orchestrator.services.hooks import Runtime, host_names
from orchestrator.services.once import ProcessLock
from orchestrator.services.options import masked
from orchestrator.services.service import bind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.engine.api import ImageInfo
    from orchestrator.environment.context import StartContext
    from orchestrator.images import LockedImage
    from orchestrator.images.lockfile import LockFile
    from orchestrator.services.hooks import Extras
    from orchestrator.services.service import Service
    from orchestrator.sessions import Snapshot
    from orchestrator.settings import Settings

_log: Final = logging.getLogger("orchestrator.environment")

_OURS: Final = f"{__package__.partition('.')[0]}."
_PORT_ATTEMPTS: Final = 8
_PORT_TAKEN: Final = ("port is already allocated", "address already in use", "failed to bind")
# What engines say of a container whose first process did not live to see its program.
_STARVED: Final = re.compile(r"cannot start a stopped process|OOM-killed|memory limit too low")
_LAST_LINES: Final = 30  # of a build that failed
_build_lock: Final = ProcessLock()  # two services of one folder are one build


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What is to be started, from which image, and where."""

    declaration: Service
    alias: str
    context: StartContext
    image: str
    image_id: str
    kept: KeptData
    await_network: Callable[[], None]


def launch(
    declaration: Service, alias: str, context: StartContext, *, await_network: Callable[[], None]
) -> Service:
    """Create, start and probe one service, and prepare it for its class.

    The container is created while the network is awaited. When it does not become ready, it is left
    for `context.clear`.
    """
    began = time.monotonic()
    with context.span(alias, "image"):
        source = source_of(declaration, lock=context.lock, settings=context.settings)
        if isinstance(source, Build):
            image, image_id = _ensure_built(source, context)
        else:
            image, image_id = str(source), _ensure_pulled(source, context).id
    whose = context.test_class or "process"
    # A service that is alone is called by its own name.
    about = alias if whose.lower() == alias else f"{whose}: {alias}"
    kept = KeptData(declaration, alias, context, image=image_id)
    order = _Order(
        declaration=declaration,
        alias=alias,
        context=context,
        image=image,
        image_id=image_id,
        kept=kept,
        await_network=await_network,
    )
    with telling(about, "starting"):
        handle = kept.restored(partial(_ready, order)) or _ready(order)
        with context.span(alias, "prepare"), translate_errors(handle, "could not be prepared"):
            handle.started()
            if handle.running.snapshot is None:
                with kept.taken_after(handle):
                    handle.prepare()
    if _log.isEnabledFor(logging.INFO):  # asking the server costs time
        seconds = time.monotonic() - began
        _log.info("%s: %s ready in %.2f s: %s", context.test_class, alias, seconds, summary(handle))
    return handle


def _ready(order: _Order, snapshot: Snapshot | None = None) -> Service:
    """Start a service, from a snapshot or from nothing, and wait until it is ready."""
    alias, context = order.alias, order.context
    try:
        handle = _started(order, snapshot)
    except EngineError as error:
        error.args = (f"{called(alias, order.image)}: {error}",)
        raise
    except DeclarationError as error:
        error.args = (f"{alias}: {error}",)
        raise
    with context.span(alias, "probe"):
        await_ready(handle, cancelled=context.stopping.is_set, published=True)
    if context.stopping.is_set():
        raise ServiceError(f"{alias} was not waited for: another failed", service=alias)
    return handle


def is_ours(service: Service, hook: str) -> bool:
    """Whether a service does something in our way, and in no user's."""
    return str(getattr(type(service), hook).__module__).startswith(_OURS)


def release(handle: Service) -> None:
    """Close what a handle opened."""
    with translate_errors(handle, "could not close its connections"):
        handle.release()


@contextlib.contextmanager
def translate_errors(handle: Service, what: str) -> Iterator[None]:
    """Turn what a driver raises in the block into a ServiceError that says what did not work.

    Or that the server has ended, or is frozen, which is why.
    """
    try:
        yield
    except OrchestratorError:
        raise
    except Exception as error:
        state = handle.state()
        if state is None or state.ended:
            raise exited(handle, state) from None  # that its driver saw it, too, is no news
        why = "" if answers(handle) else f"{FROZEN} "
        text = f"{type(error).__name__}: {masked(str(error), handle.secrets())}"
        raise ServiceError(f"{handle.alias} {what}: {why}{text}", service=handle.alias) from error


@contextlib.contextmanager
def ending_well(
    handle: Service, isolation: contextlib.AbstractContextManager[Service], *, of: str = "test"
) -> Iterator[Service]:
    """Give a test, or a class, one service's state; what its driver raises is translated."""
    restarts = handle.running.restarts
    with translate_errors(handle, f"could not give the {of} clean state"):
        state = isolation.__enter__()
    try:
        yield state
    finally:
        # A server that a test has ended, on purpose or not, has no state left to drop. Who needs
        # it next is told.
        what = f"could not drop the {of}'s state"
        if handle.running.restarts > restarts:
            what += " (the test restarted it: isolated() must drop by a new connection)"
        with contextlib.suppress(ServiceExitedError), translate_errors(handle, what):
            isolation.__exit__(None, None, None)


def _started(order: _Order, snapshot: Snapshot | None) -> Service:
    """Create the container while the network is made, and start it; its port was free before."""
    declaration, alias, context = order.declaration, order.alias, order.context
    engine = context.engine
    declared = copies(declaration, declaration.files) if declaration.files else []
    password = secrets.token_urlsafe(18)
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        runtime = Runtime(
            alias=alias,
            engine=engine,
            container=context.session.name(alias),
            image_id=order.image_id,
            networks={},
            ports={port: free_port(engine.bind_address) for port in declaration.container_ports()},
            password=password,
            helper=context.helper_container,
            snapshot=snapshot,
        )
        handle = bind(declaration, runtime, image=order.image)
        context.bound.append(handle)
        extras = handle.server_extras()
        if extras.on_own:
            runtime.networks[context.network] = [*host_names(alias), *extras.aliases]
        for network in extras.networks:
            names = [*host_names(alias), *network.aliases]
            runtime.networks[context.further_network(network)] = names
        spec = _spec(handle, order, extras)
        with context.span(alias, "create"), context.creating("container", runtime.container):
            runtime.container_id = engine.create_container(spec)
        with context.span(alias, "files"):
            _write_files(handle, [*declared, *extras.copies])
        with context.span(alias, "network"):
            order.await_network()
            for name, its_names in [*runtime.networks.items()][1:]:
                engine.connect_network(name, container=runtime.container, aliases=its_names)
        try:
            with context.span(alias, "start"):
                engine.start_container(runtime.container)
        except EngineError as error:
            _check_starved(handle, error)
            if attempt == _PORT_ATTEMPTS or not any(words in str(error) for words in _PORT_TAKEN):
                raise
            context.remove_container(runtime.container)  # somebody took the port since we looked
        else:
            context.follow(handle)
            if order.kept.takes:
                _ = engine.made  # docker-py, while the server starts: it packs the data
            return handle
    raise AssertionError  # the last attempt returns or raises


def _write_files(handle: Service, declared: Sequence[Copy]) -> None:
    """Put files into a container: those that were declared, and those that its image needs."""
    engine, container = handle.running.engine, handle.running.container
    own = [Copy(path=path, source=content) for path, content in handle.server_files().items()]
    links = handle.server_links()
    if declared:
        where = {it.path: it.path for it in declared}
        if handle.tmpfs:
            where = {path: engine.files.real_path(container, path) for path in where}
        check_hidden(handle, where, [*handle.tmpfs, *handle.server_tmpfs()])
    if own or declared or links:
        engine.files.copy_into(container, [*own, *declared], links=links)


def _check_starved(handle: Service, error: EngineError) -> None:
    """Raise that a limit of memory is too small even for the start, if that is what failed."""
    state = handle.state() if handle.memory is not None else None
    if state is None or state.running:
        return
    if state.exit_code == KILLED or state.oom_killed or _STARVED.search(str(error)):
        raise ServiceExitedError(
            f"{called(handle.alias, handle.image)} was killed for lack of memory (OOM) while it "
            f"was started: memory={handle.memory} bytes are too few even for that",
            service=handle.alias,
            exit_code=state.exit_code,
            oom_killed=True,
        ) from error


def _spec(handle: Service, order: _Order, extras: Extras) -> ContainerSpec:
    runtime, context = handle.running, order.context
    network, aliases = next(iter(runtime.networks.items()))
    reached = {TEST_PROCESS: context.engine.test_process}
    return ContainerSpec(
        name=runtime.container,
        image=runtime.image_id,
        labels=context.labels(service=runtime.alias, scope=handle.scope),
        network=network,
        aliases=aliases,
        env={**handle.server_env(), **handle.env},
        command=handle.server_command() if handle.command is None else handle.command,
        ports=runtime.ports,
        bind_address=context.engine.bind_address,
        entrypoint=handle.server_entrypoint(),
        user=handle.server_user(),
        memory=None if handle.memory is None else int(handle.memory),
        cpus=handle.cpus,
        pids=handle.pids,
        shm_size=int(handle.shm_size),
        tmpfs={**handle.server_tmpfs(), **{path: str(it) for path, it in handle.tmpfs.items()}},
        mounts=handle.server_mounts(),
        capabilities=handle.server_capabilities(),
        volumes=[
            VolumeMount(
                volume=context.volume(it, image=runtime.image_id),
                path=it.path,
                read_only=it.read_only,
                no_copy=it.no_copy,
            )
            for it in extras.volumes
        ]
        + order.kept.mounts(runtime.snapshot),
        options=replace(extras, extra_hosts={**reached, **extras.extra_hosts}),
    )


def source_of(service: Service, *, lock: LockFile, settings: Settings) -> LockedImage | Build:
    """Where a service's image comes from; nothing is asked of the engine yet.

    Raises:
        LockError: It is not locked.
    """
    if isinstance(service, Container) and isinstance(service.build, Build):
        return service.build
    return resolve_image(service.image, default=service.lock_entry, lock=lock, settings=settings)


def _ensure_built(build: Build, context: StartContext) -> tuple[str, str]:
    """Build an image, unless this process did so before with the same content: name and id."""
    from orchestrator.engine.files import (
        pack_context,
    )  # docker-py, which a warm class does not need

    folder = Path(build.folder)
    try:
        text = (folder / build.dockerfile).read_text(encoding="utf-8")
        text = with_images(text, lambda image: _base(image, context), args=build.args)
        packed = pack_context(
            folder,
            dockerfile=build.dockerfile,
            replaced={Path(build.dockerfile).as_posix(): text.encode()},
        )
    except OSError as error:
        raise DeclarationError(
            f"{build} cannot be built: {error.filename or folder}: {error.strerror}"
        ) from error
    except DeclarationError as error:
        raise DeclarationError(f"{folder / build.dockerfile}: {error}") from None
    asked = (packed.digest, build.dockerfile, sorted(build.args.items()), build.target)
    digest = hashlib.sha256(repr(asked).encode()).hexdigest()
    name = f"orchestrator/built:{digest[:24]}-{context.session.id[:8]}"
    images = context.engine.images
    output: list[str] = []
    with packed.tar, _build_lock.held():
        if images.find(name) is None:
            lines = images.build(
                packed.tar,
                name=name,
                dockerfile=build.dockerfile,
                args=build.args,
                target=build.target,
                labels=context.session.labels(scope="process"),
                stopping=context.stopping,
            )
            try:
                with context.session.creating("image", name), _told_of(folder) as step:
                    for line in lines:
                        output.append(line)
                        step(line)
            except EngineError as error:
                last = "\n".join(output[-_LAST_LINES:])
                raise EngineError(f"{error}\n{last}", status=error.status) from None
        found = images.find(name)
    if found is None:
        raise EngineError(f"{name}, built from {folder}, was removed by somebody else")
    return name, found.id


@contextlib.contextmanager
def _told_of(folder: Path) -> Iterator[Callable[[str], None]]:
    """Tell of a build: each step, which is what is given of its output, and how it ended."""
    about, began, outcome = f"build of {folder}", time.monotonic(), "failed after"
    tell(about, "building")

    def step(line: str) -> None:
        if line.upper().startswith("STEP "):  # Podman's are in capitals
            tell(about, line.strip())

    try:
        yield step
        outcome = "built in"
    finally:
        tell(about, f"{outcome} {time.monotonic() - began:.1f} s", over=True)


def _base(image: str, context: StartContext) -> str:
    """A locked base, by a name under which the engine has exactly those bytes."""
    locked = resolve_image(image, default="", lock=context.lock, settings=context.settings)
    info = _ensure_pulled(locked, context)
    pinned = locked.reference.pinned if locked.digest else ""
    return pinned if pinned in info.repo_digests else info.id


def _ensure_pulled(image: LockedImage, context: StartContext) -> ImageInfo:
    return ensure_image(context.engine, image, settings=context.settings, stopping=context.stopping)
