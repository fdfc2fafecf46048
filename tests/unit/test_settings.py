"""``ORCHESTRATOR_*``."""

from __future__ import annotations

import dataclasses
import ipaddress
import unittest
from pathlib import Path

from orchestrator.errors import SettingsError
from orchestrator.settings import Settings

BAD = {
    "ORCHESTRATOR_UNLOCKED": "maybe",
    "ORCHESTRATOR_PULL": "always",
    "ORCHESTRATOR_SKIP_WITHOUT_DOCKER": "perhaps",
    "ORCHESTRATOR_SUBNETS": "10.0.0.0/30",
    "ORCHESTRATOR_ENGINE_TIMEOUT": "-1",
    "ORCHESTRATOR_LOG_LINES": "many",
    "ORCHESTRATOR_REGISTRIES": "https://ghcr.io",
    "ORCHESTRATOR_HOST": "tcp://build.example:2375",
}


class SettingsTest(unittest.TestCase):
    """Variables are read when needed and checked on reading."""

    def test_variables_are_read(self) -> None:
        """Each kind of value is parsed."""
        settings = Settings.from_environment(
            {
                "ORCHESTRATOR_IMAGES_LOCK": "/tmp/images.lock",
                "ORCHESTRATOR_UNLOCKED": "allow",
                "ORCHESTRATOR_SKIP_WITHOUT_DOCKER": "1",
                "ORCHESTRATOR_SUBNETS": "192.168.0.0/16",
                "ORCHESTRATOR_ENGINE_TIMEOUT": "2.5",
                "ORCHESTRATOR_LOG_LINES": "7",
                "ORCHESTRATOR_HOST": "[2001:db8::7]",
                "ORCHESTRATOR_REGISTRIES": "docker.io/library, ghcr.io/acme/",
            }
        )
        expected = Settings(
            images_lock=Path("/tmp/images.lock"),
            unlocked="allow",
            skip_without_docker=True,
            subnets=ipaddress.IPv4Network("192.168.0.0/16"),
            engine_timeout=2.5,
            log_lines=7,
            host="2001:db8::7",
            registries=("docker.io/library", "ghcr.io/acme"),
        )
        self.assertEqual(expected, settings)

    def test_a_malformed_value_names_its_variable(self) -> None:
        """Every bad value is an error that says which variable has it, and the value."""
        for variable, value in BAD.items():
            with self.subTest(variable), self.assertRaises(SettingsError) as raised:
                Settings.from_environment({variable: value})
            self.assertIn(f"{variable}={value!r}", str(raised.exception))

    def test_an_empty_value_counts_as_not_set(self) -> None:
        """CI files that pass an unset variable on do not break anything."""
        self.assertEqual(Settings(), Settings.from_environment(dict.fromkeys(BAD, "")))

    def test_readme_documents_every_variable(self) -> None:
        """The README's table has a row for each setting."""
        readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
        for field in dataclasses.fields(Settings):
            self.assertIn(f"| `ORCHESTRATOR_{field.name.upper()}` |", readme)
