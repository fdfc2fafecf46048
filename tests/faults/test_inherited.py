"""Whose it is: labels are inherited by images, and by containers and images made from those."""

import io
import json
import uuid

from orchestrator.engine.api import Label
from tests.faults.case import FaultCase
from tests.faults.process import OwnerProcess, await_that
from tests.support.processes import run_command


class InheritedTest(FaultCase):
    """What somebody made from our containers stays, whoever cleans up."""

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
            self.addCleanup(client.remove_container, container, force=True)
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
