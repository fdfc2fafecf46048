"""Options: checks of what a declaration is given; and passwords, which are shown nowhere."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Final, Literal, TypeGuard
from urllib.parse import quote

from orchestrator.errors import DeclarationError, InvalidReferenceError

Scope = Literal["class", "test", "process", "run"]

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MOST: Final = 1 << 63  # bytes that an engine can count
_UNFIT: Final = re.compile("[\\0\ud800-\udfff]")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_IDENTIFIER: Final = 64
_ALIAS: Final = re.compile(r"[A-Za-z0-9_]{1,63}")  # Docker's pattern, DNS's limit for a label
_TAKEN: Final = "localhost"  # which is every container's own name for itself
_MASK: Final = "***"
_SHORT: Final = 8
_LONG_WORD: Final = 16
# What stands before a password: a key, as in ``PGPASSWORD=`` and ``password '``; in URLs, the user.
_KEY: Final = r"""(?i:pass(?:word|wd|phrase)?|pwd)["']?(?:\s*[=:]\s*["']?|\s+["'])"""
_USER: Final = r"://[^\s:@/]*:"


def check_alias(alias: str) -> None:
    """Raise DeclarationError unless the attribute's name can be a DNS name."""
    if not _ALIAS.fullmatch(alias) or alias.lower() == _TAKEN:
        raise DeclarationError(
            f"{alias!r} cannot name a service: the attribute's name is its host name on the "
            "class's network. Use ASCII letters, digits and underscores, at most 63, and not "
            f"{_TAKEN!r}."
        )


def choice(service: object, option: str, value: object, allowed: Sequence[str]) -> None:
    """Raise DeclarationError unless a value is one of the allowed words."""
    check(service, option, value in allowed, " or ".join(map(repr, allowed)))


def check_flag(service: object, option: str, value: object) -> None:
    """Raise DeclarationError unless a value is True or False."""
    check(service, option, isinstance(value, bool), "True or False")


def check_environment(service: object, option: str, values: object) -> None:
    """Raise DeclarationError unless names and values are texts."""
    kind = service if isinstance(service, str) else type(service).__name__
    if not isinstance(values, Mapping):
        raise DeclarationError(
            f"{kind}({option}={values!r}) cannot be used: expected a mapping of text to text"
        )
    place = f"{kind}({option}=…)"
    for name, value in values.items():
        if not is_text(name) or "=" in name:
            raise DeclarationError(
                f"{place} cannot have the variable {name!r}: expected its name, without '='"
            )
        if not isinstance(value, str):
            instead = "leave it out" if value is None else f"expected text, such as {str(value)!r}"
            raise DeclarationError(f"{place} cannot set {name} to {value!r}: {instead}")
        if not is_text(value, empty=True):
            raise DeclarationError(f"{place} cannot set {name}: expected UTF-8 without NUL")


def check_exec(argv: object, *, workdir: object, env: object) -> None:
    """Raise DeclarationError for an argument of `Service.exec` that cannot be used."""
    if not is_words(argv) or not argv:
        raise DeclarationError(
            f"the command {argv!r} cannot be run: expected a list of arguments such as "
            "['ls', '/'], or ['sh', '-c', 'ls | wc -l'] where a shell is needed"
        )
    if workdir is not None and not is_path(workdir):
        raise DeclarationError(
            f"exec(workdir={workdir!r}) cannot be used: expected a folder's absolute path in the "
            "container"
        )
    check_environment("exec", "env", {} if env is None else env)


def in_utf8(content: object, place: str) -> bytes:
    """Text or bytes, as bytes; DeclarationError for what is neither."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        with contextlib.suppress(UnicodeEncodeError):
            return content.encode()
    shown = "such text" if isinstance(content, str) else type(content).__name__
    raise DeclarationError(f"{place} cannot be {shown}: expected text in UTF-8, or bytes")


def check_image(service: object, image: str | None) -> None:
    """Raise DeclarationError unless an image is a reference, or can name an entry of a lock."""
    if image is None:
        return
    check(service, "image", is_text(image), "a reference")
    from orchestrator.images.lockfile import ENTRY_NAME  # declaring loads no more than it needs
    from orchestrator.images.reference import parse_reference

    if ENTRY_NAME.fullmatch(image):
        return
    try:
        parse_reference(image)
    except InvalidReferenceError as error:
        raise InvalidReferenceError(
            f"{type(service).__name__}(image={image!r}) cannot be used: {error}"
        ) from error


def in_bytes(size: object) -> int:
    """A number of bytes, or text such as ``"512m"``, in bytes; -1 for anything else."""
    number: float = size if type(size) is int else -1
    if isinstance(size, str) and (match := _SIZE.fullmatch(size.strip())):
        number = float(match[1]) * _UNITS[match[2].lower()]
    return int(number) if number < _MOST else -1


def is_path(value: object) -> bool:
    """Whether a value is an absolute path in a container."""
    return is_text(value) and value.startswith("/")


def check_words(service: object, option: str, value: object) -> None:
    """Raise DeclarationError unless a value is a list of texts, or None."""
    check(service, option, value is None or is_words(value), "a list of arguments")


def is_text(value: object, *, empty: bool = False) -> TypeGuard[str]:
    """Whether a value is text that a program can be given: UTF-8 without NUL, and not empty."""
    return isinstance(value, str) and (empty or value != "") and not _UNFIT.search(value)


def is_words(value: object) -> TypeGuard[Sequence[str]]:
    """Whether a value is a list of texts."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, (str, bytes))
        and all(is_text(word, empty=True) for word in value)
    )


def is_local_path(value: object) -> TypeGuard[str | Path]:
    """Whether a value can be a path of this machine, where names need not be UTF-8."""
    try:
        return isinstance(value, (str, Path)) and b"\0" not in (os.fsencode(value) or b"\0")
    except UnicodeEncodeError:
        return False


def is_paths(value: object) -> TypeGuard[Sequence[str | Path]]:
    """Whether a value is a list of paths of this machine."""
    good = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return good and all(map(is_local_path, value))  # type: ignore[call-overload]


def is_positive(value: object) -> bool:
    """Whether a value is a number above 0."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and value > 0
        and math.isfinite(value)
    )


def check(service: object, option: str, good: bool, expected: str) -> None:  # noqa: FBT001
    """Raise DeclarationError unless the value of an option is good."""
    if not good:
        value = getattr(service, option)
        raise DeclarationError(
            f"{type(service).__name__}({option}={value!r}) cannot be used: expected {expected}"
        )


def normalise(service: object, /, **values: object) -> None:
    """Replace options by what they mean, while a declaration is made; it is frozen from then on."""
    for option, value in values.items():
        object.__setattr__(service, option, value)


def private(default: Any, *, init: Literal[False] = False) -> Any:
    """A field of a service that is no option: state of the running service."""
    return field(init=init, default=default, repr=False)


def check_identifier(service: object, option: str, value: object) -> None:
    """Raise DeclarationError unless a value can name something on a server (63 bytes at most)."""
    check(service, option, is_identifier(value), "a name of 1 to 63 bytes")


def is_identifier(value: object) -> bool:
    """Whether a value can name something on a server."""
    return is_text(value) and len(value.encode()) < _IDENTIFIER


def read_file(service: object, option: str, file: str | Path) -> bytes:
    """The bytes of a file of the user's; DeclarationError where it cannot be read."""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise DeclarationError(
            f"{type(service).__name__}({option}=…) cannot read {str(Path(file).absolute())!r}: "
            f"{error.strerror}"
        ) from error


# Passwords


def check_password(service: object, password: str | None) -> None:
    """Raise DeclarationError unless a password can be given to a server."""
    if password is not None and not is_text(password):  # it stays out of the message itself
        raise DeclarationError(
            f"{type(service).__name__}(password=…) cannot be used: expected text without NUL"
        )


def random_password() -> str:
    """A password that cannot be guessed, of characters that need quoting nowhere."""
    return os.urandom(18).hex()


def spellings(secret: str | None) -> Sequence[str]:
    """A secret as it is, and as it stands in a URL."""
    return list(dict.fromkeys([secret, quote(secret, safe="")])) if secret else []


def masked(text: str, secrets: Iterable[str]) -> str:
    """A text without secrets.

    A password that may be an ordinary word, such as ``test`` or ``postgres``, is nobody's secret;
    with every such word masked, no log could be read. It is masked where passwords stand: in URLs
    and after a key such as ``password=``.
    """
    for secret in secrets:
        if len(secret) < _SHORT or (secret.isalpha() and len(secret) < _LONG_WORD):
            word = re.escape(secret)
            text = re.sub(rf"({_KEY}){word}(?!\w)|({_USER}){word}(?=@)", rf"\1\2{_MASK}", text)
        else:
            text = text.replace(secret, _MASK)
    return text


class Secret(str):
    """A password: the text itself to whom it is given, and ``'***'`` where its repr is shown.

    Drivers log their settings, and test failures show values; both print what is in a mapping by
    its repr.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(_MASK)
