"""Messages between parent and worker."""

from __future__ import annotations

import unittest
from typing import Any

from hypothesis import given
from hypothesis import strategies as some

from orchestrator.runner import protocol
from orchestrator.runner.messages import NotCollected
from orchestrator.runner.protocol import ProtocolError, decode, encode

# surrogates included: file names and broken encodings put them into messages
TEXT = some.text(some.characters(categories=["L", "N", "P", "S", "Z", "C"]), max_size=20)


class ProtocolTest(unittest.TestCase):
    """Messages survive the way, whatever text is in them."""

    @given(some.data(), some.sampled_from(sorted(protocol._MESSAGES)))
    def test_round_trip(self, data: some.DataObject, name: str) -> None:
        """What is sent is what arrives, in one line of ASCII."""
        kind: Any = protocol._MESSAGES[name]
        message = data.draw(some.from_type(kind))
        line = encode(message)
        self.assertEqual(repr(message), repr(decode(line)))  # not even nan equals itself
        self.assertTrue(line.isascii())
        self.assertEqual(1, line.count(b"\n"))

    @given(TEXT)
    def test_any_text(self, text: str) -> None:
        """Lone surrogates and control characters arrive unchanged."""
        message = NotCollected(text=text)
        self.assertEqual(message, decode(encode(message)))

    @given(some.binary())
    def test_noise(self, line: bytes) -> None:
        """A line that is no message is a ProtocolError, and nothing else."""
        try:
            decode(line)
        except ProtocolError:
            return
        self.fail(f"{line!r} was taken for a message")
