"""What the tests of an image share: real containers of it, through the docker command.

The image is whichever the lock file in force names, so the same tests hold the official images to
the contracts that ours copy.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import tomllib
import unittest
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

RUN = f"dev.orchestrator.run={uuid.uuid4()}"
ROOT = Path(__file__).resolve().parents[3]


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Call the docker command; its output is text."""
    done = subprocess.run(["docker", *arguments], check=False, capture_output=True, text=True)
    if check and done.returncode:
        message = f"docker {' '.join(arguments)}: {done.stderr or done.stdout}"
        raise AssertionError(message)
    return done


def locked_image(name: str) -> str:
    """Return entry `name` of the lock file in force, with its digest."""
    lock = Path(os.environ.get("ORCHESTRATOR_IMAGES_LOCK", ROOT / "images.lock"))
    entry = tomllib.loads(lock.read_text())["images"][name]
    repository = entry["reference"].rsplit(":", 1)[0]
    return f"{repository}@{entry['digest']}"


class ImageTest(unittest.TestCase):
    """Starts containers of one image, and removes them and their volumes after each test."""

    name: ClassVar[str]
    image: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        """Find the image."""
        cls.image = locked_image(cls.name)

    def start(
        self, *arguments: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> str:
        """Start a container in the background and return its id."""
        container = self.create(*arguments, options=options, env=env)
        docker("start", container)
        return container

    def create(
        self, *arguments: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> str:
        """Create a container and return its id."""
        settings = [f"--env={key}={value}" for key, value in (env or {}).items()]
        done = docker("create", f"--label={RUN}", *settings, *options, self.image, *arguments)
        container = done.stdout.strip()
        self.addCleanup(docker, "rm", "--force", "--volumes", container)
        return container

    def wait_exit(self, container: str) -> int:
        """Wait until the container has ended and return its exit code."""
        self.eventually(lambda: self.state(container, "Status") == "exited", container)
        return int(self.state(container, "ExitCode"))

    def state(self, container: str, key: str) -> str:
        """Return one entry of the container's state."""
        return docker("inspect", f"--format={{{{.State.{key}}}}}", container).stdout.strip()

    def config(self, key: str) -> object:
        """Return one entry of the image's configuration."""
        return json.loads(
            docker("inspect", f"--format={{{{json .Config.{key}}}}}", self.image).stdout
        )

    def logs(self, container: str) -> str:
        """Return everything the container has printed."""
        done = docker("logs", container)
        return done.stdout + done.stderr

    def execute(self, container: str, *arguments: str) -> str:
        """Run a command in the container and return what it printed."""
        return docker("exec", container, *arguments).stdout.strip()

    def answers(self, container: str, *arguments: str) -> bool:
        """Tell whether a command succeeds in the container."""
        return docker("exec", container, *arguments, check=False).returncode == 0

    def eventually(
        self, condition: Callable[[], bool], container: str, *, timeout: float = 60.0
    ) -> None:
        """Wait until the condition holds; fail with the container's log after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                self.fail(f"not within {timeout} s; the container's log:\n{self.logs(container)}")
            time.sleep(0.02)

    @classmethod
    def tearDownClass(cls) -> None:
        """Nothing these tests made is left."""
        left = docker("ps", "--all", "--quiet", f"--filter=label={RUN}").stdout
        assert not left, f"containers left: {left}"
