"""`Build`: an image that is built when a class starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import DeclarationError


@dataclass(frozen=True, kw_only=True)
class Build:
    """The recipe of an image.

    Every image that the Dockerfile names is taken from images.lock, as a service's own would be.

    Attributes:
        folder: What is sent to the engine, without what its ``.dockerignore`` leaves out.
        dockerfile: The recipe's path in the folder.
        args: Values of the recipe's ``ARG``; they are no place for secrets, which stay visible.
        target: The stage to build; the last one without.
    """

    folder: str | Path
    dockerfile: str = "Dockerfile"
    args: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None

    def __post_init__(self) -> None:
        good = (
            (isinstance(self.folder, Path) or (isinstance(self.folder, str) and self.folder))
            and isinstance(self.dockerfile, str)
            and self.dockerfile
            and not Path(self.dockerfile).is_absolute()
            and (self.target is None or isinstance(self.target, str))
            and isinstance(self.args, Mapping)
            and all(isinstance(k, str) and isinstance(v, str) for k, v in self.args.items())
        )
        if not good:
            raise DeclarationError(
                f"{self} cannot be used: expected a folder, the Dockerfile's path in it, args as a "
                "mapping of text to text, and the name of a stage"
            )
