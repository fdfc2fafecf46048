"""R10, R11 and what else can be in the way of a removal."""

from __future__ import annotations

import contextlib

import docker.errors

from orchestrator.engine.api import Label
from tests.faults.case import FaultCase, repeated


class ThingTest(FaultCase):
    """Volumes, foreign endpoints, paused containers, restart policies, images."""

    changes = ("VOLUME /data",)

    def _volumes_of(self, session: str) -> list[str]:
        """The anonymous volumes of a session's containers; those have no labels."""
        found = []
        filters = {"label": f"{Label.SESSION}={session}"}
        for row in self.daemon.client.containers(all=True, filters=filters):
            mounts = self.daemon.client.inspect_container(row["Id"])["Mounts"]
            found += [mount["Name"] for mount in mounts]
        return found

    def _assert_no_volume(self, names: list[str]) -> None:
        self.assertGreater(len(names), 0)
        for name in names:
            with self.assertRaises(docker.errors.NotFound):
                self.daemon.client.inspect_volume(name)

    def _foreigner(self, owner_session: str) -> str:
        """A running container that is not ours, on a network that is."""
        client = self.daemon.client
        filters = {"label": f"{Label.SESSION}={owner_session}"}
        [network] = client.networks(filters=filters)
        foreigner: str = client.create_container(self.image)["Id"]
        self.addCleanup(client.remove_container, foreigner, force=True, v=True)
        client.start(foreigner)
        client.connect_container_to_network(foreigner, network["Id"])
        return foreigner

    @repeated(10)
    def test_r10_r11_everything_in_the_way(self) -> None:
        """R10 R11 Volumes, paused and restarting containers, images and networks in use all go."""
        owner = self.started("things")
        volumes = self._volumes_of(owner.session)
        foreigner = self._foreigner(owner.session)
        kinds = {name.split()[0] for name in self.daemon.left_of_session(owner.session)}
        self.assertEqual({"container", "network", "volume", "image"}, kinds)
        self.assert_nothing_left(owner, since=owner.kill())
        self._assert_no_volume(volumes)
        state = self.daemon.client.inspect_container(foreigner)["State"]
        self.assertEqual("running", state["Status"])

    @repeated(20)
    def test_removed_by_somebody_else_meanwhile(self) -> None:
        """Containers that somebody else removes at the same time do not disturb."""
        owner = self.started("wait", containers=4)
        filters = {"label": f"{Label.SESSION}={owner.session}"}
        rows = self.daemon.client.containers(all=True, filters=filters)
        since = owner.kill()
        for row in rows:
            with contextlib.suppress(docker.errors.APIError):
                self.daemon.client.remove_container(row["Id"], force=True)
        self.assert_nothing_left(owner, since=since)
