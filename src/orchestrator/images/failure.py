"""What kind of failure a pull ended with: whether trying again helps, and the exit status.

The daemon reports most failures of a registry as text behind status 500, so the text decides. The
phrases are those of dockerd 20.10 and 28, and of the distribution specification's error codes.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final

from orchestrator.errors import DigestMismatchError, EngineUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.errors import OrchestratorError


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
    (Failure.NETWORK, r"tls handshake timeout"),
    (Failure.UNTRUSTED, r"x509:|certificate|HTTP response to HTTPS client|\btls:"),
    (
        Failure.NOT_FOUND,
        (
            r"manifest unknown|manifest_unknown|name unknown|name invalid|no such image|\b404\b"
            r"|no matching manifest|does not match the specified platform"
        ),
    ),
    (
        Failure.DENIED,
        r"unauthorized|authentication required|denied|credential|\b40[13]\b",
    ),
    (
        Failure.BUSY,
        r"\b50[0-9]\b|internal server error|bad gateway|service unavailable|unavailable",
    ),
    (
        Failure.NETWORK,
        (
            r"refused|reset by peer|timeout|timed out|deadline exceeded|\bEOF\b|no such host"
            r"|unreachable|broken pipe|did not answer within|no route to host|server misbehaving"
            r"|stream error|closed|cannot be reached|does not resolve|name resolution"
        ),
    ),
)
# A name that is not known; and a name server that fails, which may be a matter of a moment.
_UNKNOWN: Final = re.compile(r"no such host|does not resolve", re.IGNORECASE)
_LOOKUP: Final = re.compile(r"\blookup \S+( on \S+)?: |name resolution", re.IGNORECASE)
# What keeps the daemon from a registry as a whole: it asks /v2/ first, and dials for each question.
_REGISTRY: Final = re.compile(r'/v2/": |\bdial tcp\b')
_PATTERNS: Final = tuple((kind, re.compile(text, re.IGNORECASE)) for kind, text in _PHRASES)
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
    for kind, pattern in _PATTERNS:
        if pattern.search(text):
            return kind
    return Failure.OTHER


def tries(error: OrchestratorError, *, most: int) -> int:
    """How often in all something is worth trying that failed so."""
    text = str(error)
    if classify(error) not in (Failure.NETWORK, Failure.BUSY) or _UNKNOWN.search(text):
        return 1
    return min(most, 2) if _LOOKUP.search(text) else most


def concerns_registry(error: OrchestratorError) -> bool:
    """Whether any other image of the same registry would fail so, too."""
    return classify(error) is not Failure.OTHER and bool(_REGISTRY.search(str(error)))


def exit_status(failures: Iterable[Failure]) -> int:
    """0 without failures, the kind's own status when all are of one kind, else 1."""
    kinds = set(failures)
    if not kinds:
        return 0
    return kinds.pop().value if len(kinds) == 1 else Failure.OTHER.value
