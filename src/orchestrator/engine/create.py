"""What a container is created with, and what Podman needs to create the same one."""

from __future__ import annotations

import ipaddress
import os
import time
import warnings
from typing import TYPE_CHECKING, Any, Final

from orchestrator.engine.api import TEST_PROCESS, Label
from orchestrator.engine.client import IgnoreMissing
from orchestrator.engine.docker_py import docker
from orchestrator.errors import EngineError, EngineWarning, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.engine.api import ContainerSpec, RunOptions
    from orchestrator.engine.client import ClientPool

HOST_GATEWAY: Final = "host-gateway"  # the daemon puts the address there
_NANO_CPUS: Final = 1_000_000_000
_NETWORK_SECONDS: Final = 5.0
_NETWORK_POLL: Final = 0.01  # seconds


def create_container(pool: ClientPool, spec: ContainerSpec, *, bind_address: str) -> str:
    """Create a container and return its id; what the engine cannot do is a warning."""
    hosts = dict(spec.options.extra_hosts)
    if pool.is_podman:
        _check_mounts(spec, bind_address)
        # It knows no container whose network is still in the making, as Docker does.
        gateway = spec.network and _gateway(pool, spec.network)
        if hosts.get(TEST_PROCESS) == HOST_GATEWAY:
            hosts.pop(TEST_PROCESS)  # before 5.3 it takes the word for an address
            if gateway and not pool.is_rootless:  # which knows the machine by itself
                hosts[TEST_PROCESS] = gateway
    try:
        return _create(pool, spec, hosts)
    except EngineError as error:
        if HOST_GATEWAY not in str(error) or hosts.pop(TEST_PROCESS, None) is None:
            raise
    return _create(pool, spec, hosts)  # Docker before 20.10


def _check_mounts(spec: ContainerSpec, bind_address: str) -> None:
    """Podman makes a folder where the source is missing; Docker refuses."""
    if not ipaddress.ip_address(bind_address).is_unspecified:  # its machine is this one
        missing = [path for path in spec.mounts.values() if not os.path.lexists(path)]
        if missing:
            raise EngineError(
                f"Container {spec.name} cannot be created: "
                f"bind source path does not exist: {missing[0]}"
            )


def _gateway(pool: ClientPool, network: str) -> str | None:
    """The address of the daemon's machine in a network, which may be in the making."""
    deadline = time.monotonic() + _NETWORK_SECONDS
    while time.monotonic() < deadline:
        with IgnoreMissing(), pool.client(f"inspect network {network}") as client:
            configs = client.inspect_network(network)["IPAM"]["Config"] or []
            return next((it["Gateway"] for it in configs if "." in it.get("Gateway", "")), None)
        time.sleep(_NETWORK_POLL)
    return None


def _create(pool: ClientPool, spec: ContainerSpec, hosts: Mapping[str, str]) -> str:
    with pool.client(f"create container {spec.name}") as client:
        config = client.create_container_config(
            spec.image,
            command=spec.command and list(spec.command),
            environment=dict(spec.env),
            entrypoint=spec.entrypoint and list(spec.entrypoint),
            user=spec.user,
            labels={**spec.labels, Label.NAME: spec.name},
            ports=[tuple(port.split("/")) for port in spec.ports],
            host_config=_host_config(client, spec, hosts),
            networking_config=_networking(client, spec),
            # Its removal by force would be SIGTERM, and SIGKILL after this time only.
            stop_timeout=0 if pool.is_podman else None,
            **_set(spec.options, "working_dir", "hostname", "domainname", "tty", "stdin_open"),
        )
        created = client.create_container_from_config(config, spec.name, spec.options.platform)
    for said in created.get("Warnings") or ():
        # Without the container's name, so that Python shows the same words once.
        told = f"The Docker daemon, of a container that it created: {said}"
        warnings.warn(printable(told, lines=False), EngineWarning, stacklevel=2)
    return str(created["Id"])


def _host_config(client: Any, spec: ContainerSpec, hosts: Mapping[str, str]) -> Any:
    # No restart policy, ever: `always` brings a container back after a reboot.
    return client.create_host_config(
        port_bindings={port: (spec.bind_address, host) for port, host in spec.ports.items()},
        network_mode=f"container:{spec.joins}" if spec.joins else spec.network,
        tmpfs=dict(spec.tmpfs) or None,
        # Not as `binds`: the daemon would make a folder where the source is missing.
        mounts=[
            *(
                docker.types.Mount(path, source, type="bind", read_only=True)
                for path, source in spec.mounts.items()
            ),
            *(
                docker.types.Mount(
                    it.path,
                    it.volume,
                    type="volume",
                    read_only=it.read_only,
                    no_copy=it.no_copy,
                    labels=dict(it.labels) or None,
                )
                for it in spec.volumes
            ),
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
        ulimits=[
            docker.types.Ulimit(name=name, soft=soft, hard=hard)
            for name, (soft, hard) in spec.options.ulimits.items()
        ],
        **_set(spec.options, "init", "read_only", "group_add", "sysctls"),
        extra_hosts=dict(hosts),
        **_set(spec.options, "dns", "dns_search", "dns_opt"),
    )


def _set(options: RunOptions, *names: str) -> dict[str, Any]:
    """Those that are not as the engine has them anyway."""
    return {name: value for name in names if (value := getattr(options, name))}


def _networking(client: Any, spec: ContainerSpec) -> Any:
    if spec.network is None:
        return None
    endpoint = client.create_endpoint_config(aliases=list(spec.aliases))
    return client.create_networking_config({spec.network: endpoint})
