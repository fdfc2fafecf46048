"""What a container is created with, as the API has it; what Podman needs to create the same one.

Without docker-py, whose import need not be waited for.
"""

from __future__ import annotations

import ipaddress
import os
import time
import warnings
from typing import TYPE_CHECKING, Any, Final

from orchestrator.engine.api import TEST_PROCESS, IgnoreMissing, Label
from orchestrator.errors import EngineError, EngineWarning, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.engine.api import ContainerSpec
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
    # Its removal by force would be SIGTERM, and SIGKILL after this time only.
    body = container_body(spec, hosts=hosts, stop_timeout=0 if pool.is_podman else None)
    with pool.client(f"create container {spec.name}") as client:
        answer = client.create_container_from_config(body, spec.name, spec.options.platform)
        return created_id(answer)


def created_id(answer: Mapping[str, Any]) -> str:
    """The id of a container; what the engine cannot do is a warning."""
    for said in answer.get("Warnings") or ():
        # Without the container's name, so that Python shows the same words once.
        told = f"The Docker daemon, of a container that it created: {said}"
        warnings.warn(printable(told, lines=False), EngineWarning, stacklevel=2)
    return str(answer["Id"])


def container_body(
    spec: ContainerSpec, *, hosts: Mapping[str, str], stop_timeout: int | None = None
) -> dict[str, Any]:
    """What ``POST /containers/create`` takes."""
    options = spec.options
    body: dict[str, Any] = {
        "Image": spec.image,
        "Cmd": _listed(spec.command),
        "Entrypoint": _listed(spec.entrypoint),
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "User": spec.user,
        "Labels": {**spec.labels, Label.NAME: spec.name},
        "ExposedPorts": {port: {} for port in spec.ports},
        "WorkingDir": options.working_dir,
        "Hostname": options.hostname,
        "Domainname": options.domainname,
        "Tty": options.tty,
        "OpenStdin": options.stdin_open,
        "StopTimeout": stop_timeout,
        "HostConfig": _host_config(spec, hosts),
    }
    if spec.network is not None:
        networks = {spec.network: {"Aliases": list(spec.aliases)}}
        body["NetworkingConfig"] = {"EndpointsConfig": networks}
    # An empty command is not the image's own.
    return {name: value for name, value in body.items() if value is not None}


def _host_config(spec: ContainerSpec, hosts: Mapping[str, str]) -> dict[str, Any]:
    options = spec.options
    config = {
        # No restart policy, ever: `always` brings a container back after a reboot.
        "NetworkMode": f"container:{spec.joins}" if spec.joins else spec.network or "default",
        "PortBindings": {
            port: [{"HostIp": spec.bind_address, "HostPort": str(published)}]
            for port, published in spec.ports.items()
        },
        "Tmpfs": dict(spec.tmpfs),
        "Mounts": _mounts(spec),
        "Devices": [
            {"PathOnHost": it, "PathInContainer": it, "CgroupPermissions": "rwm"}
            for it in spec.devices
        ],
        "Memory": spec.memory,
        "MemorySwap": spec.memory,
        "NanoCpus": int((spec.cpus or 0) * _NANO_CPUS),
        "PidsLimit": spec.pids,
        "ShmSize": spec.shm_size,
        "Ulimits": [
            {"Name": name, "Soft": soft, "Hard": hard}
            for name, (soft, hard) in options.ulimits.items()
        ],
        "Init": options.init,
        "ReadonlyRootfs": options.read_only,
        "GroupAdd": [str(it) for it in options.group_add],
        "Sysctls": {name: str(value) for name, value in options.sysctls.items()},
        "ExtraHosts": [f"{name}:{address}" for name, address in hosts.items()],
        "Dns": list(options.dns),
        "DnsSearch": list(options.dns_search),
        "DnsOptions": list(options.dns_opt),
    }
    if spec.capabilities is not None:
        config |= {
            "CapDrop": ["ALL"],
            "CapAdd": list(spec.capabilities),
            "SecurityOpt": ["no-new-privileges"],
        }
    return {name: value for name, value in config.items() if value}


def _mounts(spec: ContainerSpec) -> list[dict[str, Any]]:
    # Not as binds: the daemon would make a folder where the source is missing.
    mounts: list[dict[str, Any]] = [
        {"Type": "bind", "Target": path, "Source": source, "ReadOnly": True}
        for path, source in spec.mounts.items()
    ]
    mounts += (
        {
            "Type": "volume",
            "Target": it.path,
            "Source": it.volume,
            "ReadOnly": it.read_only,
            "VolumeOptions": {"NoCopy": it.no_copy, "Labels": dict(it.labels)},
        }
        for it in spec.volumes
    )
    return mounts


def _listed(words: Sequence[str] | None) -> list[str] | None:
    return None if words is None else list(words)
