"""``ORCHESTRATOR_*``: the environment variables, read when first needed, checked on reading."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "ORCHESTRATOR_"
SUBNETS = ipaddress.IPv4Network("10.216.0.0/14")
_NARROWEST_RANGE = 24
_IMAGE_NAME = re.compile(r"[\w.:\[\]-]+(/[\w.-]+)*", re.ASCII)
_HOST_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment asks for. README has the table for users.

    Attributes:
        images_lock: The lock file to use instead of the one found by walking up.
        unlocked: ``"refuse"`` or ``"allow"`` images that are not locked.
        pull: ``"missing"`` pulls an image that is not there; ``"never"`` refuses.
        registry_mirror: Pairs of a name's beginning and what replaces it: where images come from
            instead of their own registry. Digests are checked all the same.
        registries: What images may come from: beginnings of names such as ``ghcr.io/acme``; empty
            for anything that is locked.
        skip_without_docker: Skip test classes, instead of failing them, when there is no daemon.
        run: The run id shared by the workers of one run; None starts a run of one's own.
        host: The address at which published ports are reached, when the guess is wrong.
        subnets: Where explicit subnets come from when Docker's own pools are used up.
        engine_timeout: Seconds the daemon has for one answer.
        log_lines: How many log lines of each service a failure shows.
        logs: The folder that keeps the whole log of every service, or None.
        timeline: The page that shows what the start of each class waited for, or None.
    """

    images_lock: Path | None = None
    unlocked: str = "refuse"
    pull: str = "missing"
    registry_mirror: tuple[tuple[str, str], ...] = ()
    registries: tuple[str, ...] = ()
    skip_without_docker: bool = False
    run: str | None = None
    host: str | None = None
    subnets: ipaddress.IPv4Network = SUBNETS
    engine_timeout: float = 60.0
    log_lines: int = 50
    logs: Path | None = None
    timeline: Path | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the variables that are set; an empty value counts as not set.

        Raises:
            SettingsError: A value cannot be used; the message names the variable.
        """
        environ = os.environ if environ is None else environ
        values = {
            name: _read(environ, name, parse)
            for name, parse in _PARSERS.items()
            if environ.get(PREFIX + name.upper())
        }
        return cls(**values)  # type: ignore[arg-type]  # each parser returns its field's type


def _read(environ: Mapping[str, str], name: str, parse: Callable[[str], object]) -> object:
    variable = PREFIX + name.upper()
    try:
        return parse(environ[variable])
    except ValueError as error:
        value = _without_password(environ[variable])
        raise SettingsError(f"{variable}={value!r} cannot be used: {error}") from None


def _without_password(value: str) -> str:
    """Hide what stands before an @ in an address: it may be a password, and errors are logged."""
    return re.sub(r"[^\s,=/]+@", "***@", value)


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected {' or '.join(choices)}")
        return text

    return parse


def _flag(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in words:
        raise ValueError("expected 1 or 0")
    return words[text.lower()]


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError("expected a number of seconds") from None
    if not 0 < seconds < float("inf"):
        raise ValueError("expected a positive number of seconds")
    return seconds


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError("expected a whole number, 0 or more")
    return int(text)


def _network(text: str) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        raise ValueError("expected an IPv4 range such as 10.216.0.0/14") from None
    if network.prefixlen > _NARROWEST_RANGE:
        raise ValueError("expected a range of at least 256 addresses (/24 or larger)")
    return network


def _mirrors(text: str) -> tuple[tuple[str, str], ...]:
    pairs: dict[str, str] = {}
    for item in re.split(r"[\s,]+", text.strip(" ,")):
        name, equals, mirror = item.rpartition("=")
        name, mirror = name if equals else "docker.io", mirror.rstrip("/")
        for part in (name, mirror):
            if "://" in part or "@" in part:
                raise ValueError(
                    "expected names such as mirror.example.com/hub, without scheme and without "
                    "credentials; `docker login` keeps those"
                )
            if not _IMAGE_NAME.fullmatch(part):
                raise ValueError("expected MIRROR or PREFIX=MIRROR, several separated by commas")
        if pairs.setdefault(name, mirror) != mirror:
            raise ValueError(f"{name} has two mirrors")
    return tuple(pairs.items())


def _registries(text: str) -> tuple[str, ...]:
    names = [name.rstrip("/") for name in re.split(r"[\s,]+", text.strip(" ,"))]
    for name in names:
        if not _IMAGE_NAME.fullmatch(name):
            raise ValueError(
                "expected beginnings of image names, such as docker.io/library,ghcr.io/acme"
            )
    return tuple(names)


def _host(text: str) -> str:
    """A name or an address; an IPv6 address may stand in brackets, as in a URL."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not _HOST_NAME.fullmatch(host) or host != text:
            raise ValueError(
                "expected a host name or an address, without scheme and port"
            ) from None
    return host


_PARSERS: dict[str, Callable[[str], object]] = {
    "images_lock": Path,
    "unlocked": _choice("refuse", "allow"),
    "pull": _choice("missing", "never"),
    "registry_mirror": _mirrors,
    "registries": _registries,
    "skip_without_docker": _flag,
    "run": str,
    "host": _host,
    "subnets": _network,
    "engine_timeout": _seconds,
    "log_lines": _count,
    "logs": Path,
    "timeline": Path,
}
