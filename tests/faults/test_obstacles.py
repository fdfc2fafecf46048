"""R8 to R11: creates in flight, and what else can be in the way of a removal."""

import random
import signal
import time

import docker.errors

from orchestrator.engine.api import Label
from tests.faults.case import FaultCase, repeated
from tests.faults.process import await_that
from tests.faults.proxy import CUT, Proxy, answer, forbidding


class ObstacleTest(FaultCase):
    """Creates that nobody waits for, what is in the way, and what may not be listed."""

    changes = ("VOLUME /data",)

    @repeated(50)
    def test_r08_killed_while_creating(self) -> None:
        """R8 SIGKILL at a random moment of the start leaves nothing."""
        owner = self.start("begin", seconds=60, containers=4)
        owner.expect("begin")
        time.sleep(random.uniform(0, 0.6))  # noqa: S311  # the moment is the point
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)

    @repeated(3)
    def test_r08_slow_daemon(self) -> None:
        """R8 A create that takes 4 s after SIGKILL, SIGTERM or Ctrl-C leaves nothing."""
        arrived: list[bytes] = []

        def hold(data: bytes) -> None:
            if data.rstrip().endswith(b"}") and b'"Image"' in data:  # a body: the request is whole
                arrived.append(data)
                time.sleep(4)  # not a wait of the test: this is the slow daemon

        with Proxy(self.daemon.url, before=hold) as proxy:
            signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
            owners = [self.start("create_slowly", url=proxy.url) for _ in signals]
            for owner in owners:
                owner.expect("ready")
            await_that(lambda: len(arrived) == len(owners), "no create arrived")
            for owner, number in zip(owners, signals, strict=True):
                since = owner.kill(number)
            for owner, number in zip(owners, signals, strict=True):
                self.assertEqual(-number, owner.wait())
            proxy.wait_until_answered(b"/containers/create")
            for owner in owners:
                owner.await_watchdogs()
        self.assert_nothing_left(*owners, since=since)

    @repeated(20)
    def test_r09_threads_create_at_sigterm(self) -> None:
        """R9 Threads that create while SIGTERM is handled leave nothing."""
        owner = self.started("create_for_ever")
        time.sleep(random.uniform(0, 0.3))  # noqa: S311  # the moment is the point
        self.assert_ends(owner, -signal.SIGTERM, since=owner.kill(signal.SIGTERM))

    def test_r09_refusal(self) -> None:
        """R9 A create after clean-up began is refused, and says why."""
        owner = self.started("refuse_after_end")
        since = owner.go()
        self.assertIn("this process is ending", owner.expect("refused")["message"])
        self.assert_ends(owner, 0, since=since)

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
        kinds = {name.split()[0] for name in self.daemon.left(owner.session, Label.SESSION)}
        self.assertEqual({"container", "network", "volume", "image"}, kinds)
        self.assert_nothing_left(owner, since=owner.kill())
        self._assert_no_volume(volumes)
        state = self.daemon.client.inspect_container(foreigner)["State"]
        self.assertEqual("running", state["Status"])

    def test_watchdog(self) -> None:
        """The watchdog removes what it may list, asked again, the rest by name, and ends."""
        forbidden = forbidding("GET /volumes", "GET /images/", "GET /containers/json")
        failing = [answer(500, "no such mount")] * 8
        killed: list[bool] = []

        def instead(line: str) -> bytes | None:
            if killed and failing and "/networks?" in line:
                return failing.pop()
            return forbidden(line)

        proxy = self.enterContext(Proxy(self.daemon.url, instead=instead))
        owner = self.started("wait", url=proxy.url)
        killed.append(True)
        since = owner.kill()
        self.assert_nothing_left(owner, since=since)
        self.assertEqual([], failing)
        owner.await_watchdogs(seconds=10)

    def test_exit_handler(self) -> None:
        """A process that ends loses one connection, may not list, and removes all by name."""
        forbidden, cuts = forbidding("GET /networks?"), [CUT]
        ended: list[bool] = []

        def instead(line: str) -> bytes | None:
            return cuts.pop() if cuts and ended and "/networks?" in line else forbidden(line)

        proxy = self.enterContext(Proxy(self.daemon.url, instead=instead))
        owner = self.started("normal", url=proxy.url)
        ended.append(True)
        self.assert_ends(owner, 0, since=owner.go())
        self.assertEqual([], cuts)
        self.assertNotIn("left behind", owner.errors())
