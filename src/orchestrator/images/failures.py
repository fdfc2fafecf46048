"""Failures of pulls: their kinds, trying again, and what a run knows cannot be done.

The daemon reports most failures of a registry as text behind status 500, so the text decides. The
phrases are those of dockerd 20.10 and 28, and of the distribution specification's error codes.
Trying again depends on that kind, not on the type of an exception, which is what tenacity looks at.

The processes of a run share a file of what has failed, so that its next class and its next worker
fail at once. Each holds a lock on it as long as it lives, which no signal can keep it from letting
go: who finds the file without a lock begins a new one, so nothing outlives the run, also where the
next has the same name. Where there can be no such file, everybody tries for themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import enum
import fcntl
import functools
import hashlib
import json
import os
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from orchestrator.errors import DigestMismatchError, EngineUnavailableError, OrchestratorError
from orchestrator.files import private_folder

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable

    from orchestrator.settings import Settings

T = TypeVar("T")
FIRST_PAUSE: Final = 1.0  # seconds; each is twice as long as the one before, 15 in all for five
_LONGEST_PAUSE: Final = 30.0


class Failure(enum.Enum):
    """A kind of failure; its value is the exit status of a command that ends with it."""

    OTHER = 1
    NETWORK = 3
    DENIED = 4
    NOT_FOUND = 5
    MISMATCH = 6
    DISK = 7
    BUSY = 8
    UNTRUSTED = 9

    @property
    def advice(self) -> str:
        """What to do about it."""
        return _ADVICE[self]


_PHRASES: Final = (
    (Failure.DISK, r"no space left on device|disk quota exceeded"),
    (Failure.MISMATCH, r"verification failed|unexpected digest|invalid digest"),
    (Failure.BUSY, r"toomanyrequests|too many requests|\b429\b|rate limit"),
    (Failure.UNTRUSTED, r"x509:|certificate|HTTP response to HTTPS client|\btls:"),
    (
        Failure.NOT_FOUND,
        r"(manifest|name).unknown|name invalid|no such image|\b404\b|no matching manifest",
    ),
    (Failure.DENIED, r"unauthorized|authentication required|denied|credential|\b40[13]\b"),
    (Failure.BUSY, r"\b50[0-9]\b|internal server error|bad gateway|unavailable"),
    (
        Failure.NETWORK,
        (
            r"refused|reset by peer|timeout|timed out|deadline exceeded|\bEOF\b|no such host|closed"
            r"|unreachable|broken pipe|did not answer within|no route to host|server misbehaving"
            r"|stream error|cannot be reached|does not resolve|name resolution"
        ),
    ),
)
# A name that is not known; and a name server that fails, which may be a matter of a moment.
_UNKNOWN: Final = re.compile(r"no such host|does not resolve", re.IGNORECASE)
_LOOKUP: Final = re.compile(r"\blookup \S+( on \S+)?: |name resolution", re.IGNORECASE)
# What keeps the daemon from a registry as a whole: it asks /v2/ first, and dials for each question.
_REGISTRY: Final = re.compile(r'/v2/": |\bdial tcp\b')
_PATTERNS: Final = [(kind, re.compile(text, re.IGNORECASE)) for kind, text in _PHRASES]
_ADVICE: Final = {
    Failure.OTHER: "`python -m orchestrator doctor` looks closer.",
    Failure.NETWORK: "Check the network (proxy, VPN, ORCHESTRATOR_REGISTRY_MIRROR) and try again.",
    Failure.DENIED: "Log in with `docker login REGISTRY`, or correct the name.",
    Failure.NOT_FOUND: "The registry has no such image (any more): "
    "`python -m orchestrator lock --update` locks what it has now.",
    Failure.MISMATCH: "The registry or mirror delivers other bytes than the locked ones. "
    "Do not use them; ask who runs it.",
    Failure.DISK: "Make room: `docker system df` shows what takes it.",
    Failure.BUSY: "The registry is overloaded or limits your rate: `docker login`, or use a mirror "
    "(ORCHESTRATOR_REGISTRY_MIRROR), or try later.",
    Failure.UNTRUSTED: "The registry's certificate is not trusted: put its CA into "
    "/etc/docker/certs.d/REGISTRY/ca.crt on the daemon's machine.",
}


def classify(error: OrchestratorError) -> Failure:
    """The kind of an error."""
    if isinstance(error, DigestMismatchError):
        return Failure.MISMATCH
    if isinstance(error, EngineUnavailableError):
        return Failure.OTHER  # the daemon, not the registry
    text = str(error)
    return next((kind for kind, phrases in _PATTERNS if phrases.search(text)), Failure.OTHER)


def attempts_worth(error: OrchestratorError, *, most: int) -> int:
    """How many attempts in all an error is worth, at most ``most``."""
    text = str(error)
    if classify(error) not in (Failure.NETWORK, Failure.BUSY) or _UNKNOWN.search(text):
        return 1
    return min(most, 2) if _LOOKUP.search(text) else most


def concerns_registry(error: OrchestratorError) -> bool:
    """Whether every other image of the same registry would fail in the same way."""
    return classify(error) is not Failure.OTHER and bool(_REGISTRY.search(str(error)))


def exit_status(failures: Iterable[Failure]) -> int:
    """0 without failures, the kind's own status when all are of one kind, else 1."""
    kinds = set(failures)
    return kinds.pop().value if len(kinds) == 1 else int(bool(kinds))


def retrying(
    do: Callable[[], T],
    *,
    report: Callable[[str], None],
    stopping: threading.Event,
    attempts: int = 5,
    known: str = "",
) -> T:
    """Call a function until it succeeds, fails for good or has no attempts left.

    ``report`` takes a line about each failure that is followed by another try, without ``known``,
    which says nothing new to its reader. Once ``stopping`` is set, the failure at hand is the last.
    """
    attempt = 1
    while True:
        try:
            return do()
        except OrchestratorError as error:
            most = attempts_worth(error, most=attempts)
            if attempt >= most:
                raise
            pause = min(FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE)
            pause *= random.uniform(0.75, 1.25)  # noqa: S311  # not for security
            reason = str(error).removeprefix(known)
            report(f"{reason}; trying again in {pause:.1f} s ({attempt + 1} of {most})")
            if stopping.wait(pause):
                raise
            attempt += 1


def has_failures(*, settings: Settings) -> bool:
    """Whether anything has failed in this run."""
    file = _file(_run(settings))
    return file is not None and os.fstat(file).st_size > 0


def failed_before(*keys: str, settings: Settings) -> tuple[str, str] | None:
    """The kind and the message of what has failed in this run under one of these keys."""
    file = _file(_run(settings))
    try:
        lines = os.pread(file, os.fstat(file).st_size, 0).splitlines() if file is not None else []
        known = {key: (kind, message) for key, kind, message in map(json.loads, lines)}
    except (OSError, ValueError):
        return None
    return next((known[key] for key in keys if key in known), None)


def note_failure(key: str, kind: str, message: str, *, settings: Settings) -> None:
    """Tell every process of this run that something failed."""
    file = _file(_run(settings))
    if file is not None:
        with contextlib.suppress(OSError):
            os.write(file, json.dumps([key, kind, message]).encode() + b"\n")


def _run(settings: Settings) -> str:
    """The name of the run that this process belongs to; of the process itself without one."""
    return settings.run_of_workers or f"process {os.getpid()}"


@functools.cache
def _file(run: str) -> int | None:
    """The run's file, empty if nobody else of the run lives; open until this process ends."""
    name = hashlib.sha256(run.encode()).hexdigest()[:32]
    try:
        here = private_folder(folder())
        for other in here.iterdir():
            _remove_unless_held(other)
        path = here / name
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(file, 0)
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError:
        return None
    atexit.register(_leave, file, path)
    return file


def folder() -> Path:
    """Where the files of this user's runs are; it need not be there."""
    import tempfile  # not at import: whoever declares an image reads its name in this room

    # Not the keepers' folder: whoever looks into this one removes what nobody holds a lock on.
    return Path(tempfile.gettempdir()) / f"orchestrator-{os.geteuid()}-failures"


def _leave(file: int, path: Path) -> None:
    os.close(file)
    _remove_unless_held(path)


def _remove_unless_held(path: Path) -> None:
    """Remove a file whose run is over."""
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(file)
