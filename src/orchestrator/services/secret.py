"""Passwords that are not shown: in what is printed of objects, and in logs and errors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK: Final = "***"
_SHORT: Final = 8
_LONG_WORD: Final = 16
# What stands before a password: a key, as in ``PGPASSWORD=`` and ``password '``; in URLs, the user.
_KEY: Final = r"""(?i:pass(?:word|wd|phrase)?|pwd)["']?(?:\s*[=:]\s*["']?|\s+["'])"""
_USER: Final = r"://[^\s:@/]*:"


def masked(text: str, secrets: Iterable[str]) -> str:
    """A text without secrets.

    A password that may be an ordinary word, such as ``test`` or ``postgres``, is nobody's secret;
    with every such word masked, no log could be read. It is masked where passwords stand: in URLs
    and after a key such as ``password=``.
    """
    for secret in secrets:
        if _may_be_a_word(secret):
            word = re.escape(secret)
            text = re.sub(rf"({_KEY}){word}(?!\w)|({_USER}){word}(?=@)", rf"\1\2{MASK}", text)
        else:
            text = text.replace(secret, MASK)
    return text


def _may_be_a_word(secret: str) -> bool:
    return len(secret) < _SHORT or (secret.isalpha() and len(secret) < _LONG_WORD)


class Secret(str):
    """A password: the text itself to whom it is given, and ``'***'`` where its repr is shown.

    Drivers log their settings, and test failures show values; both print what is in a mapping by
    its repr.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"
