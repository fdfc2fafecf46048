"""Redis: what can be said about a declaration and a log without a server."""

from __future__ import annotations

import hashlib
import unittest
from typing import Any

from orchestrator import Redis
from orchestrator.errors import DeclarationError
from orchestrator.services.redis.server import why_ended

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
]


class OptionsTest(unittest.TestCase):
    """Every option's bad value is a DeclarationError at class creation."""

    def test_a_bad_value_names_the_option(self) -> None:
        """The message says which option, and what was expected."""
        for options in BAD:
            with self.subTest(options), self.assertRaises(DeclarationError) as raised:
                Redis(**options)
            self.assertIn([*options][-1], str(raised.exception))

    def test_a_good_value_is_taken(self) -> None:
        """What the docstring shows can be declared."""
        for options in GOOD:
            with self.subTest(options):
                Redis(**options)

    def test_a_rule_with_a_password_is_refused_without_showing_it(self) -> None:
        """Not even a wrong secret is shown."""
        with self.assertRaises(DeclarationError) as raised:
            Redis(users={"app": ">hush"})
        self.assertNotIn("hush", str(raised.exception))

    def test_settings_are_written_as_redis_conf_has_them(self) -> None:
        """True is yes, words are words."""
        command = Redis(
            password="hush", settings={"appendonly": True, "save": "900 1", "oom-score-adj": ""}
        ).server_command()
        joined = " ".join(command)
        self.assertIn("--appendonly yes", joined)
        self.assertIn("--save 900 1", joined)
        self.assertEqual("", command[command.index("--oom-score-adj") + 1])

    def test_arguments_have_no_password(self) -> None:
        """Its SHA-256 stands there instead."""
        command = Redis(password="hush hush").server_command()
        self.assertNotIn("hush", " ".join(command))
        self.assertIn("#" + hashlib.sha256(b"hush hush").hexdigest(), command)


class WhyEndedTest(unittest.TestCase):
    """The log of a server that ended tells why."""

    def test_a_bad_setting_is_told(self) -> None:
        """The complaint, and the line it is about."""
        logs = (
            "\n*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***\n"
            "Reading the configuration file, at line 3\n>>> 'nonsense \"1\"'\n"
            "Bad directive or wrong number of arguments\n"
        )
        self.assertEqual(
            "Bad directive or wrong number of arguments: 'nonsense \"1\"'", why_ended(logs)
        )

    def test_a_log_without_a_reason_tells_none(self) -> None:
        """Nothing is made up."""
        self.assertEqual("", why_ended("Ready to accept connections\n"))
