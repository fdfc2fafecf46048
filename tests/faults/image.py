"""The smallest image that runs, of one program that waits and, as PID 1, ignores SIGTERM."""

import json
import platform
import struct
from collections.abc import Mapping, Sequence
from typing import Final

import docker

from tests.support.tiny_images import tar_of

_BASE: Final = 0x400000
_ELF_HEADER: Final = 64
_PROGRAM_HEADER: Final = 56
# Machine number of the ELF header, and "call pause() (x86-64) or ppoll() (arm64) for ever".
_PROGRAMS: Final[Mapping[str, tuple[int, bytes]]] = {
    "x86_64": (62, bytes.fromhex("b822000000 0f05 ebf7")),
    "aarch64": (
        183,
        bytes.fromhex("000080d2 010080d2 020080d2 030080d2 040080d2 280980d2 010000d4 f9ffff17"),
    ),
}


def build_image(client: docker.APIClient, reference: str, *, changes: Sequence[str] = ()) -> None:
    """Import the image under a reference such as ``name:tag``; changes are Dockerfile lines."""
    repository, _, tag = reference.rpartition(":")
    said: str = client.import_image_from_data(
        tar_of([("wait", _elf())], mode=0o755),
        repository=repository,
        tag=tag,
        changes=['CMD ["/wait"]', *changes],
    )
    client.tag(json.loads(said.splitlines()[-1])["status"], repository, tag)  # Podman 4 does not


def _elf() -> bytes:
    machine, code = _PROGRAMS[platform.machine().replace("arm64", "aarch64")]
    size = _ELF_HEADER + _PROGRAM_HEADER + len(code)
    entry = _BASE + size - len(code)
    header = struct.pack(
        "<4s5B7xHHIQQQIHHHHHH",
        b"\x7fELF", 2, 1, 1, 0, 0, 2, machine, 1, entry, _ELF_HEADER, 0, 0,
        _ELF_HEADER, _PROGRAM_HEADER, 1, 0, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code
