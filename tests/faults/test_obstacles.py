"""R8 to R11: creates in flight, and what else can be in the way of a removal."""

import io
import json
import random
import signal
import time
import uuid

import docker.errors

from orchestrator.engine.api import Label
from tests.faults.case import FaultCase, repeated
from tests.faults.process import OwnerProcess, await_that
from tests.faults.proxy import CUT, Proxy, answer, forbidding
from tests.support.processes import run_command


class ObstacleTest(FaultCase):
    """Creates nobody waits for, what is in the way, may not be listed, or has our labels."""

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

    def _made_from(self, owner: OwnerProcess) -> set[str]:
        """Commit, build on, run one container, rename another, tag an image; the ids of all."""
        client = self.daemon.client
        filters = {"label": f"{Label.SESSION}={owner.session}"}
        ours, renamed = client.containers(all=True, filters=filters)
        name = ours["Names"][0].lstrip("/")
        base = f"orchestrator-faults-theirs:{uuid.uuid4().hex[:12]}"
        repository, _, tag = base.partition(":")
        [built] = client.images(filters=filters)
        self.tagged = f"{repository}:{tag}-built"
        client.tag(built["Id"], repository, f"{tag}-built")
        self.addCleanup(client.remove_image, self.tagged, force=True)
        images = [
            client.commit(name, repository=repository, tag=tag)["Id"],
            client.commit(name, changes=["ENV UNTAGGED=1"])["Id"],
            client.commit(name, repository=name, changes=["ENV LIKE_OURS=1"])["Id"],
        ]
        recipe = io.BytesIO(f"FROM {base}\nENV BUILT=1\n".encode())
        steps = [json.loads(step) for step in client.build(fileobj=recipe, rm=True)]
        images += [step["aux"]["ID"] for step in steps if "aux" in step]
        self.assertEqual(4, len(images))
        for image in images:
            self.addCleanup(client.remove_image, image, force=True)
        client.rename(renamed["Id"], f"kept-{uuid.uuid4().hex[:8]}")
        containers = [renamed["Id"], *(client.create_container(image)["Id"] for image in images)]
        for container in containers:
            self.addCleanup(client.remove_container, container, force=True, v=True)
            client.start(container)
        return {built["Id"], *images, *containers}

    def _left(self) -> set[str]:
        return {id_ for _kind, _name, id_ in self.daemon._of(f"{Label.RUN}={self.run_id}")}

    def _assert_only(self, theirs: set[str], owner: OwnerProcess) -> None:
        """Wait until all of ours is gone, and the watchdog too; then all of theirs is as it was."""
        await_that(lambda: not self._left() - theirs, "ours is left")
        owner.await_watchdogs()
        self.assertEqual(theirs, self._left())
        for row in self.daemon.client.containers(filters={"label": Label.RUN}, all=True):
            if row["Id"] in theirs:
                self.assertEqual("running", row["State"])
        tags = [row["RepoTags"] for row in self.daemon.client.images(self.tagged)]
        self.assertEqual([[self.tagged]], tags)

    def test_watchdog_reap_and_ps(self) -> None:
        """The watchdog takes what has its own name, ``reap --all`` no more; ``ps`` shows none."""
        owner = self.started("wait", containers=2, build=True)
        theirs = self._made_from(owner)
        shown = {thing["id"] for thing in json.loads(run_command("ps", "--json").out)}
        self.assertEqual(set(), shown & theirs)
        owner.kill()
        self._assert_only(theirs, owner)
        report = json.loads(run_command("reap", "--json", "--all", "--run", self.run_id).out)
        self.assertEqual([], report["removed"])
        self._assert_only(theirs, owner)
