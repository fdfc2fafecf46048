"""A helper container: in a service's network namespace, with rights the service has not."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from orchestrator.engine.api import ContainerSpec
from orchestrator.images import ensure_image, find_lock, resolve_image
from orchestrator.services.once import OwnStack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.environment.site import Site

_MEMORY: Final = 256 << 20
_PIDS: Final = 16


@contextlib.contextmanager
def helper_container(
    site: Site,
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

    Args:
        site: Where the other stands.
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
    settings = site.settings
    locked = resolve_image(None, default=entry, lock=find_lock(settings), settings=settings)
    image = ensure_image(site.engine, locked, settings=settings)
    name = site.session.name("helper")
    spec = ContainerSpec(
        name=name,
        image=image.id,
        labels=site.labels(scope="test"),
        entrypoint=command[:1],
        command=command[1:],
        joins=beside,
        user="0",
        capabilities=capabilities,
        devices=devices,
        memory=_MEMORY,
        pids=_PIDS,
    )
    with OwnStack() as undo:
        with site.making_container(name):
            undo.callback(site.remove_container, name)
            site.engine.create_container(spec)
        site.engine.put_files(name, files)
        site.engine.start_container(name)
        yield name
