"""The floor: raw `docker run` of the same image with the same configuration, nothing else.

The configuration is not written down here a second time. It is read from the containers that
orchestrator starts, so that the floor is as well tuned as what is compared with it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.services.postgres.server import DATA, MEMORY
from tests.benchmarks.images import image
from tests.benchmarks.machine import docker, label, remove, run_worker
from tests.benchmarks.protocol import CONTAINER_PORTS, first_answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Recipe:
    """How a service is run by hand.

    Attributes:
        port: The host port it was configured for.
        arguments: Those of `docker run` from the environment on.
    """

    service: str
    port: int
    arguments: Sequence[str]

    def start(self) -> str:
        """Start it on its port, and return its container."""
        publish = f"127.0.0.1:{self.port}:{CONTAINER_PORTS[self.service]}"
        return docker("run", "--detach", "--label", label(), "--publish", publish, *self.arguments)

    def run(self) -> Mapping[str, float]:
        """Start it, wait for its first answer, remove it: the seconds of both."""
        began = time.monotonic()
        container = self.start()
        ready = first_answer(self.service, self.port) - began
        ending = time.monotonic()
        remove([container])
        return {"ready": ready, "teardown": time.monotonic() - ending}


def recipes(services: Sequence[str]) -> Mapping[str, Recipe]:
    """Each service's recipe, read from a class that declares them."""
    found = run_worker("ours", "inspect", *services)
    return {service: _recipe(service, found[service]) for service in services}


def _recipe(service: str, container: Any) -> Recipe:
    config, host = container["Config"], container["HostConfig"]
    [[published]] = list(host["PortBindings"].values())
    # Postgres finds its data in memory through a link that `docker run` does not make.
    pairs = [pair.replace(DATA, MEMORY) for pair in config["Env"]]
    environment = [word for pair in pairs for word in ("--env", pair)]
    tmpfs = [f"--tmpfs={path}:{options}" for path, options in (host.get("Tmpfs") or {}).items()]
    command = config["Cmd"] or []
    return Recipe(
        service,
        int(published["HostPort"]),
        [*environment, *tmpfs, image(service), *command],
    )


def run_together(together: Sequence[Recipe]) -> Mapping[str, float]:
    """Start several side by side, wait for all, remove all."""
    from concurrent.futures import ThreadPoolExecutor

    began = time.monotonic()
    with ThreadPoolExecutor(len(together)) as pool:
        containers = list(pool.map(Recipe.start, together))
        answers = pool.map(lambda recipe: first_answer(recipe.service, recipe.port), together)
        ready = max(answers) - began
    ending = time.monotonic()
    remove(containers)
    return {"ready": ready, "teardown": time.monotonic() - ending}


def refused(service: str, arguments: Sequence[str]) -> float:
    """The seconds until `docker run` of a container that exits at once returns."""
    began = time.monotonic()
    try:
        docker("run", "--rm", "--label", label(), image(service), *arguments)
    except RuntimeError:
        return time.monotonic() - began
    raise AssertionError("the container did not fail")
