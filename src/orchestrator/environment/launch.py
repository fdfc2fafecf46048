"""One service, from declaration to ready handle."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import ContainerSpec
from orchestrator.engine.network import free_port
from orchestrator.environment.diagnosis import about
from orchestrator.environment.helper import helper_container
from orchestrator.environment.sources import obtain
from orchestrator.errors import EngineError, OrchestratorError, ServiceError
from orchestrator.probes.ending import exited
from orchestrator.services.options import read_file
from orchestrator.services.readiness import FROZEN, answers, await_ready
from orchestrator.services.runtime import Runtime, host_names
from orchestrator.services.secret import masked
from orchestrator.services.service import bind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.environment.site import Site
    from orchestrator.environment.sources import Recipe
    from orchestrator.images import LockedImage
    from orchestrator.services.service import Service

_log: Final = logging.getLogger("orchestrator.environment")

_PORT_ATTEMPTS: Final = 8
_PORT_TAKEN: Final = ("port is already allocated", "address already in use", "failed to bind")


def launch(
    declaration: Service,
    alias: str,
    site: Site,
    *,
    source: LockedImage | Recipe,
    await_network: Callable[[], None],
) -> Service:
    """Create, start and probe one service, and prepare it for its class.

    Args:
        declaration: What the class declares.
        alias: Its name there.
        site: Where.
        source: Where its image comes from.
        await_network: Returns when the network exists; the container is created meanwhile.

    Raises:
        OrchestratorError: It did not become ready; the container is left for `Site.clear`.
    """
    began = time.monotonic()
    with site.span(alias, "image"):
        image = obtain(source, site)
    handle = _start(declaration, alias, site, image=image, await_network=await_network)
    with site.span(alias, "probe"):
        await_ready(handle, cancelled=site.stopping.is_set)
    if site.stopping.is_set():
        raise ServiceError(f"{alias} was not waited for: another failed", service=alias)
    with site.span(alias, "prepare"):
        prepare(handle)
    if _log.isEnabledFor(logging.INFO):  # asking the server costs time
        seconds = time.monotonic() - began
        _log.info("%s: %s ready in %.2f s: %s", site.test_class, alias, seconds, about(handle))
    return handle


def prepare(handle: Service) -> None:
    """Do what the class needs of the ready server; a driver's error becomes ours."""
    with as_ours(handle, "could not be prepared"):
        handle.started()
        handle.prepare()


def release(handle: Service) -> None:
    """Close what a handle opened; a driver's error becomes ours."""
    with as_ours(handle, "could not close its connections"):
        handle.release()


def failure(handle: Service, what: str, error: Exception) -> ServiceError:
    """The error for something a driver said: that the service ended or froze, if that is why."""
    state = handle.state()
    if state is None or state.ended:
        return exited(handle, state)
    why = "" if answers(handle) else f"{FROZEN} "
    said = masked(str(error), handle.secrets())
    return ServiceError(
        f"{handle.alias} {what}: {why}{type(error).__name__}: {said}",
        service=handle.alias,
    )


def _start(
    declaration: Service,
    alias: str,
    site: Site,
    *,
    image: tuple[str, str],
    await_network: Callable[[], None],
) -> Service:
    """Create the container while the network is made, and start it; its port was free before."""
    files = _files(declaration)
    image_name, image_id = image
    password = secrets.token_urlsafe(18)
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        runtime = Runtime(
            alias=alias,
            engine=site.engine,
            container=site.session.name(alias),
            networks=(site.network,),
            ports={
                port: free_port(site.engine.bind_address) for port in declaration.container_ports()
            },
            password=password,
            helper=partial(helper_container, site),
        )
        handle = bind(declaration, runtime, image=image_name)
        site.bound.append(handle)
        with site.span(alias, "create"), site.making_container(runtime.container):
            spec = _spec(handle, site, image=image_id)
            runtime.container_id = site.engine.create_container(spec)
        written, links = {**handle.server_files(), **files}, handle.server_links()
        if written or links:
            with site.span(alias, "files"):
                site.engine.put_files(runtime.container, written, links=links)
        with site.span(alias, "network"):
            await_network()
        try:
            with site.span(alias, "start"):
                site.engine.start_container(runtime.container)
        except EngineError as error:
            if attempt == _PORT_ATTEMPTS or not _port_taken(error):
                raise
            site.remove_container(runtime.container)
        else:
            site.follow(handle)
            return handle
    raise AssertionError  # the last attempt returns or raises


def _port_taken(error: EngineError) -> bool:
    """Whether somebody took the port between our look and Docker's start."""
    return any(phrase in str(error) for phrase in _PORT_TAKEN)


def _spec(handle: Service, site: Site, *, image: str) -> ContainerSpec:
    runtime = handle.running
    return ContainerSpec(
        name=runtime.container,
        image=image,
        labels=site.labels(service=runtime.alias, scope=handle.scope),
        network=site.network,
        aliases=host_names(runtime.alias),
        env={**handle.server_env(), **handle.env},
        command=handle.server_command() if handle.command is None else handle.command,
        ports=runtime.ports,
        bind_address=site.engine.bind_address,
        entrypoint=handle.server_entrypoint(),
        user=handle.server_user(),
        memory=None if handle.memory is None else int(handle.memory),
        cpus=handle.cpus,
        pids=handle.pids,
        shm_size=int(handle.shm_size),
        tmpfs={
            **handle.server_tmpfs(),
            **{path: f"size={size}" for path, size in handle.tmpfs.items()},
        },
        mounts=handle.server_mounts(),
        capabilities=handle.server_capabilities(),
    )


def _files(declaration: Service) -> Mapping[str, bytes]:
    return {
        path: content if isinstance(content, bytes) else read_file(declaration, "files", content)
        for path, content in declaration.files.items()
    }


@contextlib.contextmanager
def as_ours(handle: Service, what: str) -> Iterator[None]:
    """What a driver raises in the block becomes ours."""
    try:
        yield
    except OrchestratorError:
        raise
    except Exception as error:
        raise failure(handle, what, error) from error
