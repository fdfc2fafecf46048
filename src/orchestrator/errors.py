"""Everything that can go wrong, as one tree below `OrchestratorError`.

Every error pickles with its attributes, so that parallel runners can carry it between processes.
Errors of docker-py, requests and the drivers never appear on their own: they are causes
(``__cause__``) of one of these.
"""

from __future__ import annotations

import copyreg
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_COLOUR: Final = r"\x1b\[[0-9;:]*m"
# C0 and C1, separators of lines, what turns text round or hides it, and what cannot be encoded.
_CONTROLS: Final = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff"
)
_IN_TEXT: Final = re.compile(f"(?P<colour>{_COLOUR})|[{_CONTROLS}]")
_IN_LINE: Final = re.compile(rf"[\t\n{_CONTROLS}]")
_RESET: Final = ("\x1b[0m", "\x1b[m")


def printable(text: str, *, lines: bool = True) -> str:
    """Words from outside, as a terminal can be shown them: log lines, labels, a registry's answer.

    What would move the cursor, set a title or turn the text round is shown as Python writes it.
    Without `lines`, it becomes one line without tabs, colours and double spaces.
    """
    if not lines:
        return " ".join(_IN_LINE.sub(_escaped, text).split())
    shown = _IN_TEXT.sub(_escaped, text.replace("\r\n", "\n"))
    colours = re.findall(_COLOUR, shown)
    return shown if not colours or colours[-1] in _RESET else shown + _RESET[0]


def _escaped(match: re.Match[str]) -> str:
    return match.groupdict().get("colour") or ascii(match[0])[1:-1]


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """``; did you mean 'postgres'?`` for a known word that is nearly this one.

    Else nothing, or with ``otherwise="it has"`` all of them: ``; it has postgres, redis``.
    """
    import difflib  # seldom needed

    words = {word.lower(): word for word in known}
    close = difflib.get_close_matches(name.lower(), words, n=1)
    if close:
        return f"; did you mean {words[close[0]]!r}?"
    return f"; {otherwise} {', '.join(words.values())}" if otherwise else ""


def indented(text: str) -> str:
    """Lines from outside, such as a log's last ones, as they stand below a heading."""
    return "\n".join(f"    {line}" for line in printable(text.rstrip()).split("\n"))


def missing_attribute(owner: object, name: str) -> Any:
    """What ``__getattr__`` does: it raises an AttributeError that names what was probably meant."""
    if hasattr(type(owner), name):  # a property that raised an AttributeError of its own
        return object.__getattribute__(owner, name)
    text = f"{type(owner).__name__!r} object has no attribute {name!r}"
    if not name.startswith("_"):  # unittest asks each test for some that are not there
        text += did_you_mean(name, (word for word in dir(type(owner)) if word[0] != "_"))
    raise AttributeError(text, name=name, obj=owner)


class OrchestratorError(Exception):
    """Base of every error this package raises; its message can be shown on a terminal."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(arg) if isinstance(arg, str) else arg for arg in args))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by state, not by constructor: subclasses take keyword arguments."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class DeclarationError(OrchestratorError):
    """The test class is wrong: an unknown option, a bad value, a missing ``super()``."""


class InvalidReferenceError(DeclarationError):
    """An image reference cannot be read."""


class SettingsError(OrchestratorError):
    """An ``ORCHESTRATOR_*`` environment variable has a value that cannot be used."""


class EngineError(OrchestratorError):
    """The Docker daemon refused or failed.

    Attributes:
        status: The HTTP status of the daemon's answer, or None when there was no answer.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class EngineUnavailableError(EngineError):
    """There is no Docker daemon that can be used. The message says what to run.

    Attributes:
        absent: Whether nobody answers at all: ``ORCHESTRATOR_SKIP_WITHOUT_DOCKER`` skips only then.
    """

    def __init__(self, message: str, *, absent: bool = False) -> None:
        super().__init__(message)
        self.absent = absent


class EngineWarning(UserWarning):
    """The daemon did what it was asked to, but for something that it cannot do, such as a limit."""


class LockError(OrchestratorError):
    """``images.lock`` is missing, malformed or does not cover an image."""


class ImageNotLockedError(LockError):
    """An image is neither in ``images.lock`` nor given with a digest."""


class DigestMismatchError(LockError):
    """An image is present under the locked reference, but its bytes are not the locked ones."""


class ServiceError(OrchestratorError):
    """One service failed.

    Attributes:
        service: The alias of the service in its test class.
        logs: The last log lines of its container, secrets masked; empty when it wrote none.
    """

    def __init__(self, message: str, *, service: str, logs: str = "", **attributes: object) -> None:
        tail = f"\nLast log lines of {service}:\n{indented(logs)}" if logs else ""
        super().__init__(f"{message}{tail}")
        self.service = service
        self.logs = logs
        vars(self).update(attributes)


class ServiceExitedError(ServiceError):
    """The container ended while it should have been running.

    Attributes:
        exit_code: The exit status of its first process.
        oom_killed: Whether the kernel killed it for lack of memory.
    """

    exit_code: int
    oom_killed: bool


class ServiceNotReadyError(ServiceError):
    """The readiness probe did not succeed before the deadline; its last error is the cause.

    Attributes:
        probe: The probe, in words.
        seconds: How long it was tried, in seconds.
        attempts: How often it was tried.
    """

    probe: str
    seconds: float
    attempts: int


class ServiceNotRunningError(ServiceError):
    """A service was used before its class set it up, or after it was torn down."""


class MissingDriverError(OrchestratorError):
    """A Python driver is not installed. The message names the extra that brings it."""


class ReapError(OrchestratorError):
    """Something could not be removed. The message says what was left behind, and why."""
