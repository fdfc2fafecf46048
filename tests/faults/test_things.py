"""R10, R11 and what else can be in the way of a removal."""

from __future__ import annotations

import contextlib
import signal

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

    @repeated(5)
    def test_r11_everything_in_the_way_after_sigkill(self) -> None:
        """R11 Named and anonymous volumes, paused and restarting containers and images go."""
        owner = self.started("things")
        volumes = self._volumes_of(owner.session)
        kinds = {name.split()[0] for name in self.daemon.left_of_session(owner.session)}
        self.assertEqual({"container", "network", "volume", "image"}, kinds)
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)
        self._assert_no_volume(volumes)

    @repeated(5)
    def test_r11_everything_in_the_way_at_sigterm(self) -> None:
        """R11 The same with the process still alive to do it."""
        owner = self.started("things")
        volumes = self._volumes_of(owner.session)
        since = owner.kill(signal.SIGTERM)
        self.assertEqual(-signal.SIGTERM, owner.wait(), owner.errors())
        self.assertEqual("", owner.errors())
        self.assert_nothing_left(owner, since=since)
        self._assert_no_volume(volumes)

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
    def test_r10_foreign_endpoint_after_sigkill(self) -> None:
        """R10 Somebody else's container on our network keeps running, and the network goes."""
        owner = self.started("wait")
        foreigner = self._foreigner(owner.session)
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)
        state = self.daemon.client.inspect_container(foreigner)["State"]
        self.assertEqual("running", state["Status"])

    @repeated(10)
    def test_r10_foreign_endpoint_at_exit(self) -> None:
        """R10 The same at a normal exit."""
        owner = self.started("normal")
        foreigner = self._foreigner(owner.session)
        since = owner.go()
        self.assertEqual(0, owner.wait())
        self.assert_nothing_left(owner, since=since)
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
