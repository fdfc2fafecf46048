"""``ORCHESTRATOR_*``: the environment variables, read when first needed, checked on reading."""

# ruff: noqa: RUF009 - what is called in `Settings` makes a field

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "ORCHESTRATOR_"
SUBNETS = ipaddress.IPv4Network("10.216.0.0/14")
_NARROWEST_RANGE = 24
_IMAGE_NAME = re.compile(r"[\w.:\[\]-]+(/[\w.-]+)*", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_HOST_NAME = re.compile(r"[\w.-]+")


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected {' or '.join(choices)}")
        return text

    return parse


def _flag(text: str) -> bool:
    if text.lower() not in ("1", "true", "yes", "0", "false", "no"):
        raise ValueError("expected 1 or 0")
    return text.lower() in ("1", "true", "yes")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError("expected a positive number of seconds")
    return seconds


def duration(text: str) -> float:
    """Seconds of a time such as ``90s`` or ``1h30m``; anything else is a ValueError."""
    if not re.fullmatch(r"([0-9]+(\.[0-9]+)?[smhd])+|0", text):
        raise ValueError("expected a time such as 90s, 15m or 1h30m, or 0")
    parts = re.findall(r"([\d.]+)([smhd])", text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError("expected a whole number, 0 or more")
    return int(text)


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)b?", text.strip().lower())
    if match is None:
        raise ValueError("expected a size, such as 500m or 2g; 0 for none")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))


def _network(text: str) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        network = None
    if network is None or network.prefixlen > _NARROWEST_RANGE:
        raise ValueError("expected an IPv4 range of /24 or larger, such as 10.216.0.0/14")
    return network


def _mirrors(text: str) -> tuple[tuple[str, str], ...]:
    pairs: dict[str, str] = {}
    for item in re.split(r"[\s,]+", text.strip(" ,")):
        name, equals, mirror = item.rpartition("=")
        name, mirror = name if equals else "docker.io", mirror.rstrip("/")
        if not _IMAGE_NAME.fullmatch(name) or not _IMAGE_NAME.fullmatch(mirror):
            raise ValueError(
                "expected MIRROR or PREFIX=MIRROR, several separated by commas, without scheme and "
                "credentials (`docker login` keeps those)"
            )
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


def _setting(parse: Callable[[str], object], default: object) -> Any:
    return field(default=default, metadata={"parse": parse})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment asks for; README's table tells what each variable does."""

    images_lock: Path | None = _setting(Path, None)
    unlocked: str = _setting(_choice("refuse", "allow"), "refuse")
    pull: str = _setting(_choice("missing", "never"), "missing")
    # Beginnings of names, and what replaces them.
    registry_mirror: tuple[tuple[str, str], ...] = _setting(_mirrors, ())
    registries: tuple[str, ...] = _setting(_registries, ())  # empty for any
    skip_without_docker: bool = _setting(_flag, False)  # noqa: FBT003 - the default
    snapshots: int = _setting(_size, 2 << 30)  # bytes
    keep_failed: bool = _setting(_flag, False)  # noqa: FBT003 - the default
    run: str | None = _setting(str, None)  # None starts a run of one's own
    host: str | None = _setting(_host, None)
    subnets: ipaddress.IPv4Network = _setting(_network, SUBNETS)
    engine_timeout: float = _setting(_seconds, 60.0)
    startup_timeout: float = _setting(_seconds, 0.0)  # no service has less
    log_lines: int = _setting(_count, 50)
    logs: Path | None = _setting(Path, None)
    timeline: Path | None = _setting(Path, None)
    warm: float = _setting(duration, 0.0)  # seconds; 0 is off

    @property
    def run_of_workers(self) -> str | None:
        """The run that processes started together belong to, as our runner or xdist names it."""
        return self.run or os.environ.get("PYTEST_XDIST_TESTRUNUID")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the variables that are set; an empty value counts as not set.

        Raises:
            SettingsError: A value cannot be used; the message names the variable.
        """
        environ, values = os.environ if environ is None else environ, {}
        for item in fields(cls):
            variable = PREFIX + item.name.upper()
            if text := environ.get(variable):
                try:
                    values[item.name] = item.metadata["parse"](text)
                except ValueError as error:
                    shown = re.sub(r"[^\s,=/]+@", "***@", text)  # it may be a password
                    message = f"{variable}={shown!r} cannot be used: {error}"
                    raise SettingsError(message) from None
        return cls(**values)
