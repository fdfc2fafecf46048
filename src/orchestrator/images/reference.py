"""Image references: read strictly, written in full, at mirrors, and replaced in Dockerfiles.

The grammar is the one of the distribution project's `reference` package, which Docker uses: a
registry is present when the first part has a dot, a colon or is ``localhost``; repositories are
lower case; a tag has at most 128 characters; a digest names its algorithm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DeclarationError, InvalidReferenceError
from orchestrator.variables import VariableError, expand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.settings import Settings

DOCKER_HUB: Final = "docker.io"
_HUB_NAMES: Final = ("docker.io", "index.docker.io", "registry-1.docker.io")
_LONGEST_NAME: Final = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_PART: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
# Instructions of a Dockerfile.
_FROM: Final = re.compile(
    r"(?P<head>\s*FROM\s+(?:--\S+\s+)*)(?P<image>\S+)(?P<tail>(?:\s+AS\s+(?P<stage>\S+))?\s*)",
    re.IGNORECASE,
)
# COPY --from=IMAGE, and with Podman RUN --mount=type=bind,from=IMAGE
_FLAGS: Final = re.compile(r"\s*(?:COPY|ADD|RUN)\s+(?:--\S+\s+)+", re.IGNORECASE)
_IN_FLAGS: Final = re.compile(r"(?<=[-=,]from=)[^\s,]+", re.IGNORECASE)
_GOES_ON: Final = re.compile(r"(?<!\\)\\[ \t]*$")
_ESCAPE: Final = re.compile(r"\s*#\s*escape\s*=\s*`", re.IGNORECASE)
_ARG: Final = re.compile(r"\s*ARG\s+(\w+)(?:=(\S*))?\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An image reference in full: nothing about it is left to a default.

    Attributes:
        registry: Host, with a port where one is given; ``docker.io`` for Docker Hub.
        repository: Path in the registry; Docker Hub's own images begin with ``library/``.
        tag: The tag, or None for a reference by digest alone.
        digest: ``sha256:…`` of the index, or None.
    """

    registry: str
    repository: str
    tag: str | None
    digest: str | None = None

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def tagged(self) -> str:
        """The reference without its digest."""
        return f"{self.name}:{self.tag}" if self.tag else self.name

    @property
    def pinned(self) -> str:
        """The reference by digest alone, as it is pulled."""
        if not self.digest:
            raise InvalidReferenceError(f"image reference {self} has no digest")
        return f"{self.name}@{self.digest}"

    @property
    def familiar(self) -> str:
        """The reference as people write it: without ``docker.io/library/`` and the digest."""
        return self.tagged.removeprefix(f"{DOCKER_HUB}/").removeprefix("library/")

    def with_digest(self, digest: str | None) -> Reference:
        """The same reference with another digest."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        return f"{self.tagged}@{self.digest}" if self.digest else self.tagged


def is_digest(text: object) -> bool:
    """Whether this is a whole sha256 digest."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def parse_reference(text: str) -> Reference:
    """Read an image reference such as ``postgres:15-alpine`` and write it out in full.

    A reference with neither tag nor digest means the tag ``latest``, as it does for Docker. The
    InvalidReferenceError says which part is wrong.
    """
    if not isinstance(text, str):
        raise _invalid(text, "it is not text")
    if text != text.strip():
        raise _invalid(text, "it begins or ends with a blank")
    if "://" in text:
        raise _invalid(text, "a reference has no scheme; leave out everything up to '://'")
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _invalid(text, f"{digest!r} is not a digest; expected sha256: and 64 hex digits")
    folder, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")  # a colon before the last slash belongs to a port
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text, f"{tag!r} is not a tag; expected letters, digits, '_', '.', '-'")
    registry, repository = _split_name(text, f"{folder}{slash}{last}")
    default = None if digest else "latest"
    return Reference(
        registry=registry, repository=repository, tag=tag or default, digest=digest or None
    )


def _split_name(text: str, name: str) -> tuple[str, str]:
    registry, slash, repository = name.partition("/")
    # As Docker reads it: a host has a dot or a port, is localhost, or has capital letters.
    if not slash or not (re.search(r"[.:A-Z]", registry) or registry == "localhost"):
        registry, repository = DOCKER_HUB, name
    if not _REGISTRY.fullmatch(registry):
        raise _invalid(text, f"{registry!r} is not a registry host")
    for part in repository.split("/"):
        if not _PART.fullmatch(part):
            raise _invalid(
                text,
                f"{part!r} is no part of a repository's name, which has lower-case letters and "
                "digits, with '.', '_', '__' or '-' between them",
            )
    if len(f"{registry}/{repository}") > _LONGEST_NAME:
        raise _invalid(text, f"its name is longer than {_LONGEST_NAME} characters")
    if registry in _HUB_NAMES:
        return DOCKER_HUB, repository if "/" in repository else f"library/{repository}"
    return registry, repository


def _invalid(text: object, reason: str) -> InvalidReferenceError:
    return InvalidReferenceError(
        f"image reference {text!r} cannot be read: {reason}. "
        "Expected something like 'postgres:15-alpine' or 'ghcr.io/team/app:1.2'"
    )


def mirrored(reference: Reference, *, settings: Settings) -> Reference:
    """The reference at its mirror (``ORCHESTRATOR_REGISTRY_MIRROR``), or unchanged without one.

    The longest matching beginning counts, at the borders of path parts: ``docker.io/team`` covers
    ``docker.io/team/app``, not ``docker.io/teams``. Tag and digest stay: a mirror changes where
    bytes come from, never which bytes.
    """
    best, target = "", ""
    for prefix, mirror in settings.registry_mirror:
        covers = reference.name == prefix or reference.name.startswith(f"{prefix}/")
        if covers and len(prefix) > len(best):
            best, target = prefix, mirror
    if not best:
        return reference
    registry, _, path = (target + reference.name.removeprefix(best)).partition("/")
    return replace(reference, registry=registry, repository=path)


def with_images(text: str, replace: Callable[[str], str], *, args: Mapping[str, str]) -> str:
    """Replace the image of every ``FROM``, ``COPY --from`` and ``RUN --mount`` in a Dockerfile.

    ``args`` has values for the ``ARG`` before the first ``FROM``. It is a DeclarationError when an
    image is named by a variable without a value, or there is none.
    """
    known: dict[str, str] = {}
    stages: set[str] = set()
    begun = False
    done = []

    def replaced(written: str) -> str:
        image = _expanded(written, known)
        is_stage = image.lower() in {"scratch", *stages} or image.isdigit()
        return image if is_stage else replace(image)

    for instruction, lines in _instructions(text):
        changed = instruction
        if found := _FROM.fullmatch(instruction):
            changed = f"{found['head']}{replaced(found['image'])}{found['tail']}"
            begun = True
            stages.add((found["stage"] or "").lower())
        elif found := _FLAGS.match(instruction):
            flags = _IN_FLAGS.sub(lambda it: replaced(it[0]), found[0])
            changed = f"{flags}{instruction[found.end() :]}"
        elif not begun and (found := _ARG.fullmatch(instruction)):
            value = args.get(found[1], found[2])
            if value is not None:
                known[found[1]] = value.strip("\"'")
        done.append(lines if changed == instruction else changed)
    if not begun:
        raise DeclarationError("the Dockerfile has no FROM that can be read")
    return "\n".join(done)


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction in one line, as the engine puts it together, and as it is written."""
    instruction, lines = "", []
    for line in text.splitlines():
        if _ESCAPE.match(line):
            raise DeclarationError("the Dockerfile has `escape=`, for Windows; end lines with \\")
        is_remark = line.lstrip().startswith("#")
        lines.append(line)
        if lines[1:] and (is_remark or not line.strip()):
            continue  # within an instruction that goes on
        goes_on = None if is_remark else _GOES_ON.search(line)
        instruction += line[: goes_on.start()] if goes_on else line
        if not goes_on:
            yield instruction, "\n".join(lines)
            instruction, lines = "", []
    if lines:
        yield instruction, "\n".join(lines)


def _expanded(image: str, known: Mapping[str, str]) -> str:
    try:
        return expand(image, known, required=True)
    except VariableError as error:
        advice = "; give it one in Build(args=…)" if error.name else ""
        raise DeclarationError(
            f"the Dockerfile names the image {image!r}: {error}{advice}"
        ) from error
