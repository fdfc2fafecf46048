"""Whose it is: labels are inherited by images, and by containers and images made from those."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import uuid

from orchestrator.engine.api import Label
from tests.faults.case import FaultCase
from tests.faults.daemon import DEADLINE
from tests.faults.process import ROOT, OwnerProcess, wait_until_no_process_with


class InheritedTest(FaultCase):
    """What somebody made from our containers stays, whoever cleans up."""

    def _made_from(self, owner: OwnerProcess) -> set[str]:
        """Commit a container of ours, with and without a tag, build on that and run it."""
        client = self.daemon.client
        filters = {"label": f"{Label.SESSION}={owner.session}"}
        [ours, *_] = client.containers(all=True, filters=filters)
        name = ours["Names"][0].lstrip("/")
        base = f"orchestrator-faults-theirs:{uuid.uuid4().hex[:12]}"
        repository, _, tag = base.partition(":")
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
        containers = [client.create_container(image)["Id"] for image in images]
        for container in containers:
            self.addCleanup(client.remove_container, container, force=True)
            client.start(container)
        return {*images, *containers}

    def _left(self) -> set[str]:
        return {id_ for _kind, _name, id_ in self.daemon._of(f"{Label.RUN}={self.run_id}")}

    def _assert_only(self, theirs: set[str], owner: OwnerProcess) -> None:
        """Wait until all of ours is gone, and the watchdog too; then all of theirs is there."""
        deadline = time.monotonic() + DEADLINE
        while self._left() - theirs:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        wait_until_no_process_with(f"{Label.SESSION}={owner.session}")
        self.assertEqual(theirs, self._left())
        for row in self.daemon.client.containers(filters={"label": Label.RUN}, all=True):
            if row["Id"] in theirs:
                self.assertEqual("running", row["State"])

    def test_watchdog(self) -> None:
        """The watchdog of a killed owner removes what carries its own name, and nothing else."""
        owner = self.started("wait")
        theirs = self._made_from(owner)
        owner.kill()
        self._assert_only(theirs, owner)

    def test_exit_handler(self) -> None:
        """A process that ends leaves them at the moment of its end."""
        owner = self.started("normal")
        theirs = self._made_from(owner)
        owner.go()
        self.assertEqual(0, owner.wait(), owner.errors())
        self.assertEqual(theirs, self._left())
        self._assert_only(theirs, owner)

    def test_reap_and_ps(self) -> None:
        """Not even ``reap --all`` takes them, and ``ps`` does not show them."""
        owner = self.started("wait")
        theirs = self._made_from(owner)
        shown = {thing["id"] for thing in json.loads(self._command("ps", "--json"))}
        self.assertEqual(set(), shown & theirs)
        report = json.loads(self._command("reap", "--json", "--all", "--run", self.run_id))
        self.assertEqual(3, len(report["removed"]))
        self.assertEqual(theirs, self._left())
        owner.kill()
        self._assert_only(theirs, owner)

    def _command(self, *argv: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *argv],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=120,
            env={**os.environ, "DOCKER_HOST": self.daemon.url},
        ).stdout

    def test_renamed(self) -> None:
        """A container that somebody renamed is theirs."""
        owner = self.started("wait")
        filters = {"label": f"{Label.SESSION}={owner.session}"}
        [ours, *_] = self.daemon.client.containers(all=True, filters=filters)
        self.daemon.client.rename(ours["Id"], f"kept-{uuid.uuid4().hex[:8]}")
        self.addCleanup(self.daemon.client.remove_container, ours["Id"], force=True)
        owner.kill()
        self._assert_only({ours["Id"]}, owner)

    def test_tags_of_a_built_image(self) -> None:
        """Of an image that was built, our tag goes; a tag that somebody gave it stays."""
        owner = self.started("wait_with_image")
        [image] = self.daemon.client.images(filters={"label": f"{Label.RUN}={self.run_id}"})
        theirs = f"orchestrator-faults-theirs:{uuid.uuid4().hex[:12]}"
        repository, _, tag = theirs.partition(":")
        self.daemon.client.tag(image["Id"], repository, tag)
        self.addCleanup(self.daemon.client.remove_image, theirs, force=True)
        owner.kill()
        self._assert_only({image["Id"]}, owner)
        tags = [row["RepoTags"] for row in self.daemon.client.images(repository)]
        self.assertIn([theirs], tags)
