"""What can be in the way of a removal, created by an owner beside its network and containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import docker

from orchestrator.engine.api import Label

if TYPE_CHECKING:
    from tests.faults.owner import Owner


def create(owner: Owner) -> None:
    """A named volume in use, a paused container, a restart policy, an image of its own."""
    session = owner.session()
    client = docker.APIClient(base_url=owner.endpoint.url, version="auto")
    marks = session.labels(test_class="Fault")
    volume = session.name("volume")
    with session.creating("volume", volume):
        client.create_volume(volume, labels={**marks, Label.NAME: volume})
    for hint in ("uses-volume", "paused", "restarts"):
        name = session.name(hint)
        policy = {"Name": "always"} if hint == "restarts" else None
        config = client.create_host_config(binds=[f"{volume}:/named"], restart_policy=policy)
        with session.creating("container", name):
            client.create_container(
                owner.options["image"],
                name=name,
                labels={**marks, Label.NAME: name},
                host_config=config,
            )
        client.start(name)
    client.pause(next(row["Id"] for row in client.containers() if "paused" in row["Names"][0]))
    repository = session.name("image")
    with session.creating("image", f"{repository}:latest"):
        labels = {**marks, Label.NAME: f"{repository}:latest"}
        changes = [f'LABEL "{key}"={value!r}' for key, value in labels.items() if "owner" not in key]
        client.commit(name, repository=repository, changes=changes)
    client.close()
