"""The labels on everything this project creates (their names are fixed)."""

from __future__ import annotations

from typing import Final

MARK: Final = "dev.orchestrator"
SESSION: Final = "dev.orchestrator.session"
RUN: Final = "dev.orchestrator.run"
OWNER: Final = "dev.orchestrator.owner"
CLASS: Final = "dev.orchestrator.class"
SERVICE: Final = "dev.orchestrator.service"
SCOPE: Final = "dev.orchestrator.scope"
CREATED: Final = "dev.orchestrator.created"
# The name of the thing itself. `docker commit` copies all labels to an image, and `docker run` from
# there to a container: by its name a thing is told from what only inherited its labels.
NAME: Final = "dev.orchestrator.name"
