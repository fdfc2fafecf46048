"""Messages between parent and worker."""

from __future__ import annotations

import unittest
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as some

from orchestrator.runner.messages import Message, MessageError, decode, encode


class MessagesTest(unittest.TestCase):
    """Messages survive the way, whatever text is in them."""

    @settings(max_examples=50)
    @given(some.data(), some.sampled_from(get_args(Message)))
    def test_round_trip(self, data: some.DataObject, kind: Any) -> None:
        """What is sent is what arrives, lone surrogates too, in one line of ASCII."""
        # surrogates included: file names and broken encodings put them into messages
        any_text = some.text(some.characters(categories=["L", "P", "Z", "C"]), max_size=20)
        message = data.draw(some.from_type(kind))
        for field, value in vars(message).items():
            if isinstance(value, str):
                object.__setattr__(message, field, data.draw(any_text))
        line = encode(message)
        self.assertEqual(repr(message), repr(decode(line)))  # not even nan equals itself
        self.assertTrue(line.isascii())
        self.assertEqual(1, line.count(b"\n"))

    @given(some.binary())
    def test_noise(self, line: bytes) -> None:
        """A line that is no message is a MessageError, and nothing else."""
        with self.assertRaises(MessageError):
            decode(line)
