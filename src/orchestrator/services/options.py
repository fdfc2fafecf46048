"""What the values of a declaration must look like."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from urllib.parse import quote

from orchestrator.errors import DeclarationError, InvalidReferenceError

if TYPE_CHECKING:
    from orchestrator.services.service import Service

Scope = Literal["class", "test", "process"]

_UNITS: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE: Final = re.compile(r"(\d+)\s*([bkmg]?)b?", re.IGNORECASE)
_LEAST_MEMORY: Final = 6 << 20  # Docker refuses a smaller limit
_CAPABILITY: Final = re.compile(r"[A-Z][A-Z_]*")
_IDENTIFIER: Final = 64
_TAKEN: Final = "localhost"  # which is every container's own name for itself
_ALIAS: Final = re.compile(r"[A-Za-z0-9_]{1,63}")


def check_alias(alias: str) -> None:
    """Raise DeclarationError unless the attribute's name can be a DNS name.

    The pattern is Docker's for a name on a network; 63 bytes are DNS's limit for a label.
    """
    if not _ALIAS.fullmatch(alias) or alias.lower() == _TAKEN:
        raise DeclarationError(
            f"{alias!r} cannot name a service: the attribute's name is its host name on the "
            "class's network. Use ASCII letters, digits and underscores, at most 63, and not "
            f"{_TAKEN!r}."
        )


def check_common(service: Service) -> None:
    """Check the options every service has, and turn sizes into bytes.

    Raises:
        DeclarationError: A value cannot work.
    """
    _check_image(service)
    check_environment(service, "env", service.env)
    if service.command is not None:
        check(service, "command", _is_words(service.command), "a list of arguments")
    if service.memory is not None:
        expected = "bytes, or text such as '512m'; at least 6m"
        check(service, "memory", in_bytes(service.memory) >= _LEAST_MEMORY, expected)
        _normalise(service, "memory", in_bytes(service.memory))
    check(service, "cpus", service.cpus is None or _is_positive(service.cpus), "more than 0")
    check(service, "startup_timeout", _is_positive(service.startup_timeout), "seconds, above 0")
    pids = service.pids
    check(service, "pids", pids is None or (type(pids) is int and pids > 0), "a count, above 0")
    check(service, "shm_size", _is_room(service.shm_size), "bytes, or text such as '256m'")
    _normalise(service, "shm_size", in_bytes(service.shm_size))
    _check_tmpfs(service)
    check(
        service,
        "log_to",
        service.log_to is None or _is_text(service.log_to) or _is_logger(service.log_to),
        "a logger, or a logger's name",
    )
    _check_files(service)
    choice(service, "scope", service.scope, ("class", "test", "process"))
    check(
        service,
        "depends_on",
        not isinstance(service.depends_on, str) and isinstance(service.depends_on, Sequence),
        "a list of services of this class",
    )


def choice(service: Service, option: str, value: object, allowed: Sequence[str]) -> None:
    """Raise DeclarationError unless a value is one of the allowed words."""
    check(service, option, value in allowed, " or ".join(map(repr, allowed)))


def check_flag(service: Service, option: str, value: object) -> None:
    """Raise DeclarationError unless a value is True or False."""
    check(service, option, isinstance(value, bool), "True or False")


def check_environment(service: Service, option: str, values: Mapping[str, object]) -> None:
    """Raise DeclarationError unless names and values are texts."""
    check(service, option, isinstance(values, Mapping), "a mapping of text to text")
    for name, value in values.items():
        if not _is_text(name) or "=" in name:
            raise DeclarationError(
                f"{type(service).__name__}({option}=…) cannot have the variable {name!r}: expected "
                "its name, as text without '='"
            )
        if not isinstance(value, str):
            instead = "leave it out" if value is None else f"expected text, such as {str(value)!r}"
            raise DeclarationError(
                f"{type(service).__name__}({option}=…) cannot set {name} to {value!r}: {instead}"
            )


def in_bytes(size: object) -> int:
    """A size in bytes; -1 for what is none."""
    if isinstance(size, str):
        match = _SIZE.fullmatch(size.strip())
        return int(match[1]) * _UNITS[match[2].lower()] if match else -1
    return size if isinstance(size, int) and not isinstance(size, bool) else -1


def is_path(value: object) -> bool:
    """Whether a value is an absolute path in a container."""
    return isinstance(value, str) and value.startswith("/") and "\0" not in value


def check_words(service: Service, option: str, value: object) -> None:
    """Raise DeclarationError unless a value is a list of texts, or None."""
    check(service, option, value is None or _is_words(value), "a list of arguments")


def check_argv(argv: object) -> None:
    """Raise DeclarationError unless a command is a list of texts, at least one."""
    if not _is_words(argv) or not argv:
        raise DeclarationError(
            f"the command {argv!r} cannot be run: expected a list of arguments such as "
            "['ls', '/'], or ['sh', '-c', 'ls | wc -l'] where a shell is needed"
        )


def check_log_range(tail: object, since: object) -> None:
    """Raise DeclarationError unless `tail` is a count and `since` a moment, if given."""
    from datetime import datetime  # not at import: declaring loads no more than it needs

    if tail is not None and not (type(tail) is int and tail >= 0):
        raise DeclarationError(f"logs(tail={tail!r}) cannot be used: expected a number of lines")
    if since is not None and not isinstance(since, datetime):
        raise DeclarationError(f"logs(since={since!r}) cannot be used: expected a datetime")


def check_capabilities(service: Service, option: str, value: object) -> None:
    """Raise DeclarationError unless a value is a list of capabilities, or None."""
    good = value is None or (
        _is_words(value) and all(_CAPABILITY.fullmatch(name) for name in cast("list[str]", value))
    )
    check(service, option, good, "a list such as ['NET_ADMIN']")


def _check_image(service: Service) -> None:
    check(service, "image", service.image is None or _is_text(service.image), "a reference")
    if service.image is None:
        return
    from orchestrator.images.lockfile import ENTRY_NAME  # not at import, as above
    from orchestrator.images.reference import parse_reference

    if ENTRY_NAME.fullmatch(service.image):
        return
    try:
        parse_reference(service.image)
    except InvalidReferenceError as error:
        raise InvalidReferenceError(
            f"{type(service).__name__}(image={service.image!r}) cannot be used: {error}"
        ) from error


def _is_logger(value: object) -> bool:
    import logging  # not at import: declaring loads no more than it needs

    return isinstance(value, logging.Logger)


def _check_tmpfs(service: Service) -> None:
    good = isinstance(service.tmpfs, Mapping) and all(
        is_path(path) and _is_room(size) for path, size in service.tmpfs.items()
    )
    check(service, "tmpfs", good, "a mapping of absolute container path to size, such as '64m'")
    _normalise(service, "tmpfs", {path: in_bytes(size) for path, size in service.tmpfs.items()})


def _is_room(value: object) -> bool:
    return is_size(value) and in_bytes(value) > 0


def _check_files(service: Service) -> None:
    files = service.files
    good = isinstance(files, Mapping) and all(
        is_path(path) and not path.endswith("/") and isinstance(content, (str, Path, bytes))
        for path, content in files.items()
    )
    check(service, "files", good, "a mapping of absolute container path to host path or bytes")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_words(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, (str, bytes))
        and all(isinstance(word, str) for word in value)
    )


def _is_positive(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and value > 0
        and math.isfinite(value)
    )


def check(service: Service, option: str, good: bool, expected: str) -> None:  # noqa: FBT001
    """Raise DeclarationError unless the value of an option is good."""
    if not good:
        value = getattr(service, option)
        raise DeclarationError(
            f"{type(service).__name__}({option}={value!r}) cannot be used: expected {expected}"
        )


def _normalise(service: Service, option: str, value: object) -> None:
    object.__setattr__(service, option, value)  # it is being made, and frozen only from then on


def private(default: Any, *, init: Literal[False] = False) -> Any:
    """A field that is no option: a handle's own state."""
    return field(init=init, default=default, repr=False)


def is_size(value: object) -> bool:
    """Whether a value is a number of bytes, or text such as ``"2mb"``."""
    return in_bytes(value) >= 0


def check_password(service: Service, password: str | None) -> None:
    """Raise DeclarationError unless a password can be given to a server."""
    good = password is None or (_is_text(password) and "\0" not in password)
    if not good:  # the value itself stays out of the message
        raise DeclarationError(
            f"{type(service).__name__}(password=…) cannot be used: expected text without NUL"
        )


def random_password() -> str:
    """A password that nobody guesses, of characters that mean nothing anywhere."""
    return os.urandom(18).hex()


def spellings(secret: str | None) -> Sequence[str]:
    """A secret as it is, and as it stands in a URL."""
    return list(dict.fromkeys([secret, quote(secret, safe="")])) if secret else []


def check_identifier(service: Service, option: str, value: object) -> None:
    """Raise DeclarationError unless a value can name something on a server (63 bytes at most)."""
    check(service, option, is_identifier(value), "a name of 1 to 63 bytes")


def is_identifier(value: object) -> bool:
    """Whether a value can name something on a server."""
    return isinstance(value, str) and 0 < len(value.encode()) < _IDENTIFIER and "\0" not in value


def read_file(service: Service, option: str, file: str | Path) -> bytes:
    """The bytes of a file of the user's.

    Raises:
        DeclarationError: It cannot be read.
    """
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise DeclarationError(
            f"{type(service).__name__}({option}=…) cannot read {str(file)!r}: {error.strerror}"
        ) from error
