"""What the tests of an image share: real containers of it.

The image is whichever the lock file in force names, so the same tests hold the official images to
the contracts that ours copy.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import tomllib
import unittest
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tests.faults.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import docker

ROOT = Path(__file__).resolve().parents[3]


def docker_command(*arguments: str) -> str:
    """Call the docker command; what it prints."""
    done = subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def locked_image(name: str) -> str:
    """Return entry `name` of the lock file in force, with its digest."""
    lock = Path(os.environ.get("ORCHESTRATOR_IMAGES_LOCK", ROOT / "images.lock"))
    entry = tomllib.loads(lock.read_text())["images"][name]
    repository = entry["reference"].rsplit(":", 1)[0]
    return f"{repository}@{entry['digest']}"


class ImageTest(unittest.TestCase):
    """Starts containers of one image; they and their volumes go at the end of the class."""

    name: ClassVar[str]
    image: ClassVar[str]
    run_label: ClassVar[str]
    client: ClassVar[docker.APIClient]

    @classmethod
    def setUpClass(cls) -> None:
        """Find the image."""
        cls.image = locked_image(cls.name)
        cls.run_label = f"dev.orchestrator.run={uuid.uuid4()}"
        cls.client = Daemon().client
        cls.addClassCleanup(cls.client.close)
        cls.addClassCleanup(cls._remove_all)

    @classmethod
    def _remove_all(cls) -> None:
        for row in cls.client.containers(all=True, filters={"label": cls.run_label}):
            cls.client.remove_container(row["Id"], force=True, v=True)

    @classmethod
    def start(
        cls, *arguments: str, options: tuple[str, ...] = (), env: Mapping[str, str] | None = None
    ) -> str:
        """Start a container and return its id."""
        settings = [f"--env={key}={value}" for key, value in (env or {}).items()]
        ran = ("run", "--detach", f"--label={cls.run_label}", *settings, *options, cls.image)
        return docker_command(*ran, *arguments)

    @classmethod
    def folder(cls, files: Mapping[str, bytes], at: str) -> str:
        """Return the option that mounts a folder with these files."""
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        root = Path(directory.name)
        root.chmod(0o755)
        for name, content in files.items():
            (root / name).write_bytes(content)
        return f"--volume={root}:{at}:ro"

    def assert_ends(self, container: str, because: str, *, status: int | None = None) -> None:
        """Wait until the container has ended, with a status (not 0 by default) and these words."""
        got = self.client.wait(container, timeout=120)["StatusCode"]
        self.assertTrue(got if status is None else got == status, self.logs(container))
        self.assertIn(because, self.logs(container))

    def config(self, *keys: str) -> list[object]:
        """Return entries of the image's configuration."""
        found = json.loads(docker_command("inspect", "--format={{json .Config}}", self.image))
        return [found[key] for key in keys]

    def logs(self, container: str) -> str:
        """Return everything the container has printed."""
        return self.client.logs(container).decode()

    def run_in(
        self, container: str, *argv: str, env: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Run a command in the container: its status and what it printed."""
        execution = self.client.exec_create(container, list(argv), environment=dict(env or {}))
        output = self.client.exec_start(execution["Id"]).decode().strip()
        return self.client.exec_inspect(execution["Id"])["ExitCode"], output

    def execute(self, container: str, *argv: str, env: Mapping[str, str] | None = None) -> str:
        """What a command prints that succeeds in the container."""
        status, output = self.run_in(container, *argv, env=env)
        self.assertEqual(0, status, output)
        return output

    def answers(self, container: str, *argv: str) -> bool:
        """Whether a command succeeds in the container."""
        return self.run_in(container, *argv)[0] == 0

    def eventually(self, condition: Callable[[], bool], container: str) -> None:
        """Wait until the condition holds; fail with its log at the deadline."""
        deadline = time.monotonic() + 120
        while not condition():
            if time.monotonic() > deadline:
                self.fail(f"not within two minutes; the container's log:\n{self.logs(container)}")
            time.sleep(0.3)  # an exec costs the daemon as much
