"""What the values of a `Redis` declaration must look like."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, get_args

from orchestrator.errors import DeclarationError
from orchestrator.services import options

if TYPE_CHECKING:
    from orchestrator.services.redis import Redis

Isolation = Literal["flush", "prefix", "none"]
Policy = Literal[
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
]
_SETTING: Final = re.compile(r"[a-z][a-z0-9-]*")
_USER: Final = re.compile(r"[!-~]{1,63}")
_OURS: Final = {
    "user": "users=",
    "requirepass": "password=",
    "aclfile": "users=",
    "port": "port, which others rely on",
    "tls-port": "tls=True",
    "maxmemory": "maxmemory=",
    "maxmemory-policy": "maxmemory_policy=",
}
# Rules that give a user a password, or take it: those are made by the service, and never told.
_PASSWORD_RULES: Final = re.compile(r"[><#!].*|nopass|resetpass|reset")


def check(service: Redis) -> None:
    """Raise DeclarationError for a value that Redis would refuse."""
    if service.maxmemory is not None:
        size = "bytes, or text such as '2mb'"
        options.check(service, "maxmemory", options.is_size(service.maxmemory), size)
    if service.maxmemory_policy is not None:
        options.choice(service, "maxmemory_policy", service.maxmemory_policy, get_args(Policy))
    options.choice(service, "isolation", service.isolation, get_args(Isolation))
    options.check_password(service, service.password)
    for option in ("tls", "strict"):
        options.check_flag(service, option, getattr(service, option))
    _check_settings(service)
    _check_users(service)
    if service.strict and service.isolation == "none":
        raise DeclarationError(
            "Redis(strict=True) needs isolation: with isolation='none' tests share everything"
        )


def words(value: str | float) -> list[str]:
    """A setting's value as the words that follow its name in redis.conf."""
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    return shlex.split(str(value)) or [""]


def _check_settings(service: Redis) -> None:
    settings = service.settings
    good = isinstance(settings, Mapping) and all(
        isinstance(name, str)
        and _SETTING.fullmatch(name)
        and isinstance(value, (str, int, float))
        and _can_be_split(value)
        for name, value in settings.items()
    )
    options.check(service, "settings", good, "a mapping of a setting's name to its value")
    for name in settings:
        if name in _OURS:
            raise DeclarationError(
                f"Redis(settings=…) cannot have {name!r}: it is given by {_OURS[name]}"
            )


def _check_users(service: Redis) -> None:
    users = service.users
    good = isinstance(users, Mapping) and all(
        isinstance(name, str) and _USER.fullmatch(name) and isinstance(rules, str)
        for name, rules in users.items()
    )
    options.check(service, "users", good, "a mapping of a name to ACL rules")
    if "default" in users:
        raise DeclarationError(
            "Redis(users=…) cannot have 'default': it is the user of the service's own clients, "
            "and may do everything"
        )
    for name, rules in users.items():
        for rule in rules.split():
            if _PASSWORD_RULES.fullmatch(rule):
                raise DeclarationError(
                    f"Redis(users=…) cannot give {name!r} the rule {rule[:1]}…: its password is "
                    "made for you, see as_user()"
                )


def _can_be_split(value: str | float) -> bool:
    try:
        return "\0" not in "".join(words(value))
    except ValueError:  # a quote that does not end
        return False
