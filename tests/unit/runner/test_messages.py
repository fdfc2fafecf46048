"""Messages between parent and worker."""

from __future__ import annotations

import unittest
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as some

from orchestrator.runner.messages import Message, MessageError, NotCollected, decode, encode

# surrogates included: file names and broken encodings put them into messages
TEXT = some.text(some.characters(categories=["L", "N", "P", "S", "Z", "C"]), max_size=20)
KINDS = get_args(Message)


class MessagesTest(unittest.TestCase):
    """Messages survive the way, whatever text is in them."""

    @settings(max_examples=50)
    @given(some.data(), some.sampled_from(KINDS))
    def test_round_trip(self, data: some.DataObject, kind: Any) -> None:
        """What is sent is what arrives, in one line of ASCII."""
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
        """A line that is no message is a MessageError, and nothing else."""
        with self.assertRaises(MessageError):
            decode(line)
