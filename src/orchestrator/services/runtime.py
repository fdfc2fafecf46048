"""The container behind a handle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.engine.port import Engine


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The container behind a handle.

    Attributes:
        ports: Container port such as ``"5432/tcp"`` to the host port.
        networks: The names of the networks it stands on.
        password: A random password of this session, for servers that want one.
    """

    alias: str
    engine: Engine
    container: str
    networks: Sequence[str]
    ports: Mapping[str, int]
    password: str
    container_id: str = ""
