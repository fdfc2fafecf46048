"""Networks, through docker-py."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from orchestrator.engine.docker_client import shown
from orchestrator.engine.docker_containers import NOT_FOUND
from orchestrator.engine.labels import NAME
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.engine.docker_client import ClientPool

FORBIDDEN = 403


class DockerNetworks:
    """The part of `DockerEngine` that concerns networks."""

    _pool: ClientPool

    def create_network(
        self, name: str, /, *, labels: Mapping[str, str], subnet: str | None = None
    ) -> str:
        """Create a bridge network and return its id."""
        pool = {"Driver": "default", "Config": [{"Subnet": subnet}]} if subnet else None
        with self._pool.client(f"create network {name}") as client:
            network: str = client.create_network(
                name,
                driver="bridge",
                ipam=pool,
                labels={**labels, NAME: name},
                check_duplicate=True,
            )["Id"]
            return network

    def remove_network(self, network: str, /) -> None:
        """Remove a network; foreign endpoints are disconnected by force first."""
        try:
            self._remove(network)
        except EngineError as error:
            if error.status != FORBIDDEN:
                raise
            for container in self._attached(network):
                self._disconnect(network, container=container, force=True)
            self._remove(network)

    def _remove(self, network: str) -> None:
        try:
            with self._pool.client(f"remove network {shown(network)}") as client:
                client.remove_network(network)
        except EngineError as error:
            if error.status != NOT_FOUND:
                raise

    def _attached(self, network: str) -> Sequence[str]:
        try:
            with self._pool.client(f"inspect network {shown(network)}") as client:
                containers = client.inspect_network(network)["Containers"] or {}
        except EngineError as error:
            if error.status == NOT_FOUND:
                return []
            raise
        # An endpoint that outlived its container is listed as "ep-…" and known by its name only.
        return [
            found["Name"] if key.startswith("ep-") else key for key, found in containers.items()
        ]

    def subnets(self) -> Sequence[str]:
        """The subnets of all networks of this daemon, ours or not."""
        with self._pool.client("list networks") as client:
            return [
                config["Subnet"]
                for network in client.networks()
                for config in (network["IPAM"]["Config"] or [])
                if "Subnet" in config
            ]

    def bridge_gateway(self) -> str | None:
        """The address of the default bridge on the daemon's machine, or None without one."""
        try:
            with self._pool.client("inspect the default bridge") as client:
                configs = client.inspect_network("bridge")["IPAM"]["Config"] or []
        except EngineError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        for config in configs:
            if ":" in config.get("Subnet", ""):
                continue  # ports are published on IPv4
            if gateway := config.get("Gateway"):
                return str(gateway)
            if subnet := config.get("Subnet"):  # some daemons name only this; it has the first
                return str(ipaddress.ip_network(subnet)[1])
        return None

    def connect_network(
        self, network: str, /, *, container: str, aliases: Sequence[str] = ()
    ) -> None:
        """Attach a container to a network."""
        with self._pool.client(f"connect {shown(container)} to network {shown(network)}") as client:
            client.connect_container_to_network(container, network, aliases=list(aliases))

    def disconnect_network(self, network: str, /, *, container: str) -> None:
        """Detach a container from a network."""
        self._disconnect(network, container=container, force=False)

    def _disconnect(self, network: str, *, container: str, force: bool) -> None:
        try:
            with self._pool.client(
                f"disconnect {shown(container)} from network {shown(network)}"
            ) as client:
                client.disconnect_container_from_network(container, network, force=force)
        except EngineError as error:
            if error.status != NOT_FOUND:
                raise
