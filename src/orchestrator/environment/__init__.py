"""One class's network and services: start, bind, stop."""

from __future__ import annotations

from typing import Final

OF_CLASS: Final = ""
"""The timeline's row of what the class as a whole waits for."""
