"""What a worker writes to stdout and stderr: how much, what, and where the parent finds it."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_LONGEST_READ: Final = 1 << 22
_CHUNK: Final = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Written:
    """How much a worker had written at some moment, in bytes of each stream."""

    out: int = 0
    err: int = 0


@dataclass(frozen=True, kw_only=True)
class Output:
    """A piece of what a worker wrote, by stream."""

    out: str = ""
    err: str = ""

    def __bool__(self) -> bool:
        return bool(self.out or self.err)

    def __add__(self, other: "Output") -> "Output":
        return Output(out=self.out + other.out, err=self.err + other.err)

    def __str__(self) -> str:
        """Both, one after the other: which line came before which is not known."""
        between = "\n" if self.out and self.err and not self.out.endswith("\n") else ""
        return f"{self.out}{between}{self.err}"


class OutputFiles:
    """A worker's stdout and stderr: two unlinked files that the parent reads by offset.

    There is no pipe that a grandchild could hold open, and raw writes are captured like prints.

    Attributes:
        out: The descriptor that is the worker's stdout; ``err`` is its stderr.
    """

    def __init__(self) -> None:
        self.out, self.err = _unlinked_file(), _unlinked_file()

    def written(self) -> Written:
        """How much is there."""
        return Written(out=os.fstat(self.out).st_size, err=os.fstat(self.err).st_size)

    def read(self, start: Written, end: Written | None = None) -> Output:
        """What was written between two moments; of very much, the end."""
        end = end or self.written()
        return Output(
            out=_read(self.out, start.out, end.out), err=_read(self.err, start.err, end.err)
        )

    def stdout(self, start: Written, end: Written) -> Iterator[bytes]:
        """All that was written to stdout between two moments, as it is."""
        place = start.out
        while chunk := os.pread(self.out, min(_CHUNK, max(0, end.out - place)), place):
            place += len(chunk)
            yield chunk

    def close(self) -> None:
        """Drop them."""
        os.close(self.out)
        os.close(self.err)


def _read(file: int, start: int, end: int) -> str:
    shown = max(start, end - _LONGEST_READ)
    text = os.pread(file, max(0, end - shown), shown).decode(errors="backslashreplace")
    return f"… {shown - start} bytes left out …\n{text}" if shown > start else text


def _unlinked_file() -> int:
    """A file without a name; appending, so that a test that truncates it leaves no hole."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-") as folder:
        return os.open(
            os.path.join(folder, "output"),  # noqa: PTH118 - os.open takes it as it is
            os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
            0o600,
        )
