"""Drivers that are not installed."""

from __future__ import annotations

import sys
import unittest
import unittest.mock
from typing import Any

from orchestrator.errors import MissingDriverError
from orchestrator.services.once import driver, load_early
from orchestrator.services.postgres import setup


class MissingTest(unittest.TestCase):
    """The error is a command that mends it."""

    def test_what_an_extra_brings_is_installed_by_the_extra(self) -> None:
        """So that its version fits."""
        gone = {"redis": None}
        with (
            unittest.mock.patch.dict(sys.modules, gone),
            self.assertRaisesRegex(MissingDriverError, r"install 'unittest-orchestrator\[redis\]'"),
        ):
            driver("redis", extra="redis")

    def test_alembic_is_installed_by_its_own_name(self) -> None:
        """No extra brings it: only whoever has migrations of that kind needs it."""
        gone: dict[str, Any] = {"alembic": None, "alembic.command": None}
        engine = unittest.mock.MagicMock()
        config = unittest.mock.MagicMock(attributes={})
        with (
            unittest.mock.patch.dict(sys.modules, gone),
            self.assertRaisesRegex(MissingDriverError, "Run: pip install alembic$"),
        ):
            setup.run_migration(config, engine=engine, async_engine=lambda: engine)


class EarlyTest(unittest.TestCase):
    """Drivers are imported while the containers start."""

    def test_what_is_missing_is_told_to_whoever_needs_it(self) -> None:
        """Not before; the others are imported all the same."""
        with unittest.mock.patch.dict(sys.modules, {"redis": None}):
            sys.modules.pop("colorsys", None)
            load_early(["redis", "colorsys"])
            self.assertTrue("colorsys" in sys.modules)
