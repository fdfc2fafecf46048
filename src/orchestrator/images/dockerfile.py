"""Building on locked images: the base images of a Dockerfile, replaced by the locked ones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DeclarationError
from orchestrator.variables import VariableError, expand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_FROM: Final = re.compile(
    r"(?P<head>\s*FROM\s+(?:--\S+\s+)*)(?P<image>\S+)(?P<tail>(?:\s+AS\s+(?P<stage>\S+))?\s*)",
    re.IGNORECASE,
)
_COPY: Final = re.compile(
    r"(?P<head>\s*(?:COPY|ADD)\s+(?:--\S+\s+)*?--from=)(?P<image>\S+)(?P<tail>\s.*)", re.IGNORECASE
)
_ARG: Final = re.compile(r"\s*ARG\s+(\w+)(?:=(\S*))?\s*", re.IGNORECASE)


def with_images(text: str, replace: Callable[[str], str], *, args: Mapping[str, str]) -> str:
    """Replace the image of every ``FROM`` and ``COPY --from`` in a Dockerfile.

    Args:
        text: The Dockerfile.
        replace: Given an image as it is written there, says what to write instead.
        args: Values for the ``ARG`` before the first ``FROM``.

    Raises:
        DeclarationError: An image is named by a variable without a value, or there is none.
    """
    known: dict[str, str] = {}
    stages: set[str] = set()
    begun = False
    lines = []
    for line, starts in _instructions(text):
        found = starts and (_FROM.fullmatch(line) or _COPY.fullmatch(line))
        if starts and not begun and (argument := _ARG.fullmatch(line)):
            value = args.get(argument[1], argument[2])
            if value is not None:
                known[argument[1]] = value.strip("\"'")
        if found:
            image = _expanded(found["image"], known)
            if not _is_stage(image, stages):
                image = replace(image)
            if "stage" in found.groupdict():
                begun = True
                stages.add((found["stage"] or "").lower())
            line = f"{found['head']}{image}{found['tail']}"  # noqa: PLW2901 - the line, rewritten
        lines.append(line)
    if not begun:
        raise DeclarationError("the Dockerfile has no FROM that can be read")
    return "\n".join(lines)


def _instructions(text: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether an instruction begins there, and no earlier one continues."""
    goes_on = False
    for line in text.splitlines():
        remark = line.lstrip().startswith("#")
        yield line, not goes_on and not remark
        if not remark and line.strip():
            goes_on = line.rstrip().endswith("\\")


def _is_stage(image: str, stages: set[str]) -> bool:
    return image.lower() in {"scratch", *stages} or image.isdigit()


def _expanded(image: str, known: Mapping[str, str]) -> str:
    try:
        return expand(image, known, required=True)
    except VariableError as error:
        advice = "; give it one in Build(args=…)" if error.name else ""
        raise DeclarationError(
            f"the Dockerfile names the image {image!r}: {error}{advice}"
        ) from error
