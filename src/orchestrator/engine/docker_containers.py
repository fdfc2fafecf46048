"""Containers, through docker-py."""

from __future__ import annotations

import io
import tarfile
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import docker.types

from orchestrator.engine.docker_client import shown
from orchestrator.engine.labels import NAME
from orchestrator.engine.port import ContainerState
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.engine.docker_client import ClientPool
    from orchestrator.engine.port import ContainerSpec

NOT_FOUND: Final = 404
CONFLICT: Final = 409
_REMOVAL_DEADLINE: Final = 5.0  # seconds for somebody else's removal
_REMOVAL_POLL: Final = 0.05
_NANO_CPUS: Final = 1_000_000_000


class DockerContainers:
    """The part of `DockerEngine` that concerns containers."""

    _pool: ClientPool

    def create_container(self, spec: ContainerSpec, /) -> str:
        """Create a container and return its id."""
        with self._pool.client(f"create container {spec.name}") as client:
            config = client.create_container_config(
                spec.image,
                command=_argv(spec.command),
                environment=dict(spec.env),
                entrypoint=_argv(spec.entrypoint),
                user=spec.user,
                labels={**spec.labels, NAME: spec.name},
                ports=[tuple(port.split("/")) for port in spec.ports],
                host_config=_host_config(client, spec),
                networking_config=_networking(client, spec),
            )
            container: str = client.create_container_from_config(config, spec.name)["Id"]
            return container

    def start_container(self, container: str, /) -> None:
        """Start a created or stopped container."""
        with self._pool.client(f"start container {shown(container)}") as client:
            client.start(container)

    def container(self, container: str, /) -> ContainerState | None:
        """The container now, or None when it is gone."""
        try:
            with self._pool.client(f"inspect container {shown(container)}") as client:
                found = client.inspect_container(container)
        except EngineError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        state = found["State"]
        return ContainerState(
            id=found["Id"],
            name=found["Name"].lstrip("/"),
            image_id=found["Image"],
            status=state["Status"],
            exit_code=state["ExitCode"],
            oom_killed=state["OOMKilled"],
            error=state["Error"],
            health=(state.get("Health") or {}).get("Status"),
            networks={
                name: network["IPAddress"]
                for name, network in found["NetworkSettings"]["Networks"].items()
            },
        )

    def kill_container(self, container: str, /, *, signal: str = "SIGKILL") -> None:
        """Send a signal to the container's first process."""
        with self._pool.client(f"signal container {shown(container)}") as client:
            client.kill(container, signal)

    def restart_container(self, container: str, /) -> None:
        """Kill the container and start it again."""
        with self._pool.client(f"restart container {shown(container)}") as client:
            client.restart(container, timeout=0)

    def pause_container(self, container: str, /) -> None:
        """Freeze every process in the container."""
        with self._pool.client(f"pause container {shown(container)}") as client:
            client.pause(container)

    def unpause_container(self, container: str, /) -> None:
        """Thaw a frozen container."""
        with self._pool.client(f"unpause container {shown(container)}") as client:
            client.unpause(container)

    def remove_container(self, container: str, /) -> None:
        """Kill and remove a container with its anonymous volumes.

        Returns when it is gone, also when somebody else is removing it. Their removal may fail: it
        is asked for again until the daemon knows of no such container.
        """
        deadline = time.monotonic() + _REMOVAL_DEADLINE
        while True:
            try:
                with self._pool.client(f"remove container {shown(container)}") as client:
                    client.remove_container(container, v=True, force=True)
            except EngineError as error:
                if error.status == NOT_FOUND:
                    return
                if error.status != CONFLICT or time.monotonic() > deadline:
                    raise
            else:
                return
            time.sleep(_REMOVAL_POLL)

    def put_files(
        self,
        container: str,
        files: Mapping[str, bytes],
        /,
        *,
        links: Mapping[str, str] | None = None,
    ) -> None:
        """Write files into a created or running container, readable by every user there.

        Args:
            container: Its name or id.
            files: Path to content.
            links: Path to where a symbolic link there leads, in a folder that every user may
                write to.
        """
        with self._pool.client(f"write files into container {shown(container)}") as client:
            client.put_archive(container, "/", _tar(files, links or {}))


def _argv(words: Sequence[str] | None) -> list[str] | None:
    return None if words is None else list(words)


def _host_config(client: Any, spec: ContainerSpec) -> Any:
    # No restart policy, ever: `always` brings a container back after a reboot.
    return client.create_host_config(
        port_bindings={port: (spec.bind_address, host) for port, host in spec.ports.items()},
        network_mode=f"container:{spec.joins}" if spec.joins else spec.network,
        tmpfs=dict(spec.tmpfs) or None,
        # Not as `binds`: the daemon would make a folder where the source is missing.
        mounts=[
            docker.types.Mount(path, source, type="bind", read_only=True)
            for path, source in spec.mounts.items()
        ],
        devices=list(spec.devices),
        cap_drop=None if spec.capabilities is None else ["ALL"],
        cap_add=None if spec.capabilities is None else list(spec.capabilities),
        security_opt=None if spec.capabilities is None else ["no-new-privileges"],
        mem_limit=spec.memory,
        memswap_limit=spec.memory,
        nano_cpus=None if spec.cpus is None else int(spec.cpus * _NANO_CPUS),
        pids_limit=spec.pids,
        shm_size=spec.shm_size,
    )


def _networking(client: Any, spec: ContainerSpec) -> Any:
    if spec.network is None:
        return None
    endpoint = client.create_endpoint_config(aliases=list(spec.aliases))
    return client.create_networking_config({spec.network: endpoint})


def _tar(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size = len(content)
            member.mode = 0o755 if content.startswith(b"#!") else 0o644
            archive.addfile(member, io.BytesIO(content))
        for path, target in links.items():
            link = tarfile.TarInfo(path.lstrip("/"))
            link.type, link.linkname = tarfile.SYMTYPE, target
            folder = tarfile.TarInfo(str(PurePosixPath(link.name).parent))
            folder.type, folder.mode = tarfile.DIRTYPE, 0o777
            archive.addfile(folder)
            archive.addfile(link)
    return buffer.getvalue()
