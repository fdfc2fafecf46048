"""Redis: what can be said about a declaration without a server."""

from __future__ import annotations

import unittest
from typing import Any

from orchestrator import Redis
from orchestrator.errors import DeclarationError

BAD: list[dict[str, Any]] = [
    {"maxmemory": "some"},
    {"maxmemory": -1},
    {"maxmemory": True},
    {"maxmemory_policy": "allkeys"},
    {"isolation": "schema"},
    {"settings": ["save"]},
    {"settings": {"save ''": ""}},
    {"settings": {"save": None}},
    {"settings": {"save": "'unfinished"}},
    {"settings": {"requirepass": "x"}},
    {"settings": {"maxmemory": "2mb"}},
    {"settings": {"user": "x"}},
    {"settings": {"daemonize": True}},
    {"settings": {"rename-command": "FLUSHALL ''"}},
    {"settings": {"rename-command": "eval EVAL2"}, "isolation": "prefix"},
    {"users": ["app"]},
    {"users": {"the app": "+@all"}},
    {"users": {"app": ["+@all"]}},
    {"users": {"default": "+@all"}},
    {"users": {"app": "~* nopass"}},
    {"users": {"app": "~* >hush"}},
    {"tls": "yes"},
    {"password": ""},
    {"password": "a\0b"},
]
GOOD: list[dict[str, Any]] = [
    {"maxmemory": "2mb", "maxmemory_policy": "allkeys-lru"},
    {"maxmemory": 1 << 20},
    {"settings": {"appendonly": True, "hz": 50, "client-output-buffer-limit": "normal 0 0 0"}},
    {"users": {"app": "~app:* +@all -@dangerous", "nobody": ""}},
    {"settings": {"rename-command": "FLUSHALL ''"}, "isolation": "none"},
    {"settings": {"rename-command": "KEYS ''"}},
]


class OptionsTest(unittest.TestCase):
    """Every option's bad value is a DeclarationError at class creation."""

    def test_a_bad_value_names_the_option(self) -> None:
        """The message says which option, and what was expected."""
        for options in BAD:
            with self.subTest(options), self.assertRaises(DeclarationError) as raised:
                Redis(**options)
            self.assertIn(next(iter(options)), str(raised.exception))
            self.assertNotIn("hush", str(raised.exception))  # not even a wrong secret is shown

    def test_a_good_value_is_taken(self) -> None:
        """What the docstring shows can be declared."""
        for options in GOOD:
            with self.subTest(options):
                Redis(**options)

    def test_settings_are_written_as_redis_conf_has_them(self) -> None:
        """True is yes, words are words."""
        settings: dict[str, str | float] = {
            "appendonly": True,
            "save": "900 1",
            "oom-score-adj": "",
        }
        command = Redis(settings=settings).server_command()
        joined = " ".join(command)
        self.assertIn("--appendonly yes", joined)
        self.assertIn("--save 900 1", joined)
        self.assertEqual("", command[command.index("--oom-score-adj") + 1])
