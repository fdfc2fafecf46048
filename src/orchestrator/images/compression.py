"""Archives as byte streams: plain, gzip or zstandard, never whole in memory."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import os
import shutil
import subprocess
import tempfile
import zlib
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from orchestrator.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.images.archive_stream import Readable

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
# Images are mostly machine code: level 6 takes twice as long as 3 for a twentieth less.
_GZIP_LEVEL: Final = 3


_OTHERS: Final = (".zip", ".7z", ".xz", ".txz", ".bz2", ".tbz2", ".tbz", ".lz4", ".br")


class Writable(Protocol):
    """A stream of bytes to write."""

    def write(self, piece: bytes, /) -> int:
        """Write all of it."""


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Readable]:
    """Read an archive, decompressed as its first bytes say.

    Raises:
        LockError: It cannot be read, or is cut off or damaged.
    """
    if path.is_fifo():
        raise LockError(f"{path} cannot be read: it is not a file")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            if not magic:
                raise LockError(f"{path} is empty")
            if magic.startswith(_GZIP):
                with gzip.GzipFile(fileobj=file) as stream:
                    yield stream
            elif magic == _ZSTD:
                with _read_zstd(file, path) as stream:
                    yield stream
            else:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise LockError(f"{path} is cut off or damaged: {error}") from error
    except OSError as error:
        raise LockError(f"{path} cannot be read: {error.strerror or error}") from error


@contextlib.contextmanager
def compressed(file: IO[bytes], *, name: str) -> Iterator[Writable]:
    """Write to a file, compressed as a name's ending says: .gz and .tgz, .zst and .tzst, or not.

    Raises:
        LockError: The ending promises what is not written here, or nothing here can compress with
            zstandard.
    """
    if name.endswith(_OTHERS):
        raise LockError(f"{name}: an archive is a .tar, .tar.gz or .tar.zst, by the name's ending")
    if name.endswith((".gz", ".tgz")):
        with gzip.GzipFile(
            filename="", fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL
        ) as stream:
            yield stream
    elif name.endswith((".zst", ".tzst")):
        with _write_zstd(file, name) as stream:
            yield stream
    else:
        yield file


def _library() -> Any:
    """Python's own module, from 3.14 on."""
    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        return None


def _program(name: object) -> str:
    program = shutil.which("zstd")
    if program is None:
        raise LockError(
            f"{name} needs zstandard, and neither Python 3.14's compression.zstd nor the program "
            "zstd is here. Install it (`apt-get install zstd`, `brew install zstd`), or use .tar.gz"
        )
    return program


@contextlib.contextmanager
def _read_zstd(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if library := _library():
        try:
            with library.open(file) as stream:
                yield stream
        except library.ZstdError as error:
            raise LockError(f"{path} is cut off or damaged: {error}") from error
        return
    os.lseek(file.fileno(), 0, os.SEEK_SET)  # Python reads ahead; the program has the descriptor
    with _process([_program(path), "-dcq"], stdin=file, stdout=subprocess.PIPE) as (
        process,
        stderr,
    ):
        assert process.stdout is not None  # noqa: S101  # a pipe was asked for
        yield process.stdout
        process.stdout.read()  # what follows the archive's end; the program ends when it is read
        if process.wait() != 0:
            raise LockError(f"{path} is cut off or damaged: {_words(stderr)}")


@contextlib.contextmanager
def _write_zstd(file: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    if library := _library():
        with library.open(file, "wb") as stream:
            yield stream
        return
    with _process([_program(name), "-cq"], stdin=subprocess.PIPE, stdout=file) as (process, stderr):
        assert process.stdin is not None  # noqa: S101  # a pipe was asked for
        broken = False
        try:
            yield process.stdin
            process.stdin.close()
        except BrokenPipeError:
            broken = True  # it says on stderr why it left
        if process.wait() != 0 or broken:
            raise LockError(f"{name} cannot be written: {_words(stderr)}")


def _words(stderr: IO[bytes]) -> str:
    stderr.seek(0)
    return stderr.read().decode(errors="replace").strip()


@contextlib.contextmanager
def _process(
    argv: list[str], *, stdin: Any, stdout: Any
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A program that is gone at the end, whatever happens."""
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr)
        try:
            yield process, stderr
        finally:
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            process.wait()
