"""Which texts show a password, and which only a word."""

from __future__ import annotations

import unittest

from orchestrator.services.secret import masked

WITH_PASSWORD = (
    "postgresql://test:{}@127.0.0.1:5432/test",
    "host=localhost user=test password={} dbname=test",
    "password = '{}'",
    "alter role test password '{}'",
    '{{"user": "test", "password": "{}"}}',
    "PGPASSWORD={} psql",
    "POSTGRES_PASSWORD: {}",
)
WITH_WORD = (
    'FATAL:  password authentication failed for user "test"',
    'relation "test" does not exist',
    "test_order failed in tests.test_shop",
    "postgresql://test@127.0.0.1:5432/test",
    "password=testing",
)


class MaskTest(unittest.TestCase):
    """What is random or long is hidden wherever it stands; an ordinary word is not."""

    def test_a_word_is_hidden_where_passwords_stand(self) -> None:
        """In URLs, and after a key that says what it is."""
        for text in WITH_PASSWORD:
            with self.subTest(text):
                self.assertEqual(text.format("***"), masked(text.format("test"), ["test"]))

    def test_a_word_is_shown_where_it_is_only_a_word(self) -> None:
        """A log in which every `test` is missing helps nobody."""
        for text in WITH_WORD:
            with self.subTest(text):
                self.assertEqual(text, masked(text, ["test"]))
        text = "postgresql://test:5432@localhost:5432/test"
        self.assertEqual("postgresql://test:***@localhost:5432/test", masked(text, ["5432"]))

    def test_what_is_no_word_is_hidden_everywhere(self) -> None:
        """Random passwords, and declared ones that look like it, are secret in any place."""
        for secret in ("hunter2!", "correcthorsebatterystaple", "9f86d081884c7d65"):
            self.assertEqual("said *** aloud", masked(f"said {secret} aloud", [secret]))
