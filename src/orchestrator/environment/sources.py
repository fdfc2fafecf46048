"""Where a service's image comes from: the lock file, or a recipe that is built."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.engine.build import pack_context
from orchestrator.errors import DeclarationError, EngineError
from orchestrator.images import ensure_image, resolve_image
from orchestrator.images.dockerfile import with_images
from orchestrator.services.container import Build, Container
from orchestrator.services.once import ProcessLock

if TYPE_CHECKING:
    from orchestrator.engine.api import ImageInfo
    from orchestrator.engine.build import BuildContext
    from orchestrator.environment.site import Site
    from orchestrator.images import LockedImage
    from orchestrator.images.lockfile import LockFile
    from orchestrator.services.service import Service
    from orchestrator.settings import Settings

_LAST_LINES: Final = 30
_one_at_a_time: Final = ProcessLock()  # two services of one recipe are one build


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An image that is built, from images that are locked."""

    build: Build
    lock: LockFile


def source_of(service: Service, *, lock: LockFile, settings: Settings) -> LockedImage | Recipe:
    """What a service's image comes from; nothing is asked of the engine yet.

    Raises:
        LockError: It is not locked.
    """
    if isinstance(service, Container) and service.build is not None:
        given = service.build
        return Recipe(build=given if isinstance(given, Build) else Build(folder=given), lock=lock)
    return resolve_image(service.image, default=service.lock_entry, lock=lock, settings=settings)


def obtain(source: LockedImage | Recipe, site: Site) -> tuple[str, str]:
    """Have an image on the engine: what to call it, and its id.

    Raises:
        OrchestratorError: It could not be pulled or built.
    """
    if isinstance(source, Recipe):
        return _built(source, site)
    return str(source), _ensure(source, site).id


def _built(recipe: Recipe, site: Site) -> tuple[str, str]:
    """Build it, unless this process did so before with the same content."""
    build = recipe.build
    folder = Path(build.folder)
    try:
        text = (folder / build.dockerfile).read_text(encoding="utf-8")
        text = with_images(text, lambda image: _base(image, recipe, site), args=build.args)
        context = pack_context(
            folder,
            dockerfile=build.dockerfile,
            replaced={Path(build.dockerfile).as_posix(): text.encode()},
        )
    except OSError as error:
        raise DeclarationError(
            f"{build} cannot be built: {error.filename or folder}: {error.strerror}"
        ) from error
    except DeclarationError as error:
        raise DeclarationError(f"{folder / build.dockerfile}: {error}") from None
    asked = [context.digest, build.dockerfile, sorted(build.args.items()), build.target]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    name = f"orchestrator/built:{digest[:24]}-{site.session.id[:8]}"
    with context.tar, _one_at_a_time.held():
        found = site.engine.images.find(name)
        if found is None:
            _run(build, context, name, site)
            found = site.engine.images.find(name)
    if found is None:
        raise EngineError(f"{name}, built from {folder}, was removed by somebody else")
    return name, found.id


def _run(build: Build, context: BuildContext, name: str, site: Site) -> None:
    said: list[str] = []
    try:
        with site.session.creating("image", name):
            said.extend(
                site.engine.images.build(
                    context.tar,
                    name=name,
                    dockerfile=build.dockerfile,
                    args={**build.args},
                    target=build.target,
                    labels=site.session.labels(scope="process"),
                    stopping=site.stopping,
                )
            )
    except EngineError as error:
        last = "\n".join(said[-_LAST_LINES:])
        raise EngineError(f"{error}\n{last}", status=error.status) from None


def _base(image: str, recipe: Recipe, site: Site) -> str:
    """A locked base, by a name under which the engine has exactly those bytes."""
    locked = resolve_image(image, default="", lock=recipe.lock, settings=site.settings)
    info = _ensure(locked, site)
    pinned = locked.reference.pinned if locked.digest else ""
    return pinned if pinned in info.repo_digests else info.id


def _ensure(image: LockedImage, site: Site) -> ImageInfo:
    return ensure_image(site.engine, image, settings=site.settings, stopping=site.stopping)
