"""Who a process is, so that it can be recognised again and never mistaken for another.

A pid alone is reused. A pid with its start time, PID namespace and boot is not: that is what goes
into the owner label of everything a session creates.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
# Fields of /proc/PID/stat (proc(5)), counted from field 3, the state.
_THREADS: Final = 20 - 3
_START: Final = 22 - 3
_ENDED: Final = frozenset("ZXx")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One process, on one machine, since one boot.

    Attributes:
        boot: The id the kernel drew at boot. Containers share it with their host.
        pidns: The inode of the PID namespace, 0 where there are none.
        pid: The process id inside that namespace.
        start: When it started, in clock ticks since boot.
        host: The machine: host name and a digest of its machine id. Survives a reboot.
    """

    boot: str
    pidns: int
    pid: int
    start: int
    host: str

    def to_label(self) -> str:
        """The text for the owner label."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_label(cls, text: str) -> Identity:
        """Read an owner label back.

        Raises:
            ValueError: It is not one of ours; the message says what is wrong with it.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("the owner label is not JSON") from None
        if not isinstance(values, dict):
            raise ValueError("the owner label is not a JSON object")  # noqa: TRY004  # one error
        return cls(
            boot=_text(values, "boot"),
            pidns=_number(values, "pidns"),
            pid=_number(values, "pid"),
            start=_number(values, "start"),
            host=_text(values, "host"),
        )


def this_process() -> Identity:
    """The identity of the calling process."""
    pid = os.getpid()
    start = process_start("self") if (_PROC / "self").exists() else process_start(pid)
    return Identity(boot=boot_id(), pidns=pid_namespace(), pid=pid, start=start or 0, host=_host())


def boot_id() -> str:
    """The id of this boot, or an empty text where the system has none."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return _output("sysctl", "-n", "kern.bootsessionuuid")  # macOS


def pid_namespace(pid: int | str = "self") -> int:
    """The inode of a process's PID namespace, 0 on systems without them.

    Raises:
        PermissionError: The process belongs to somebody else.
        ProcessLookupError: There is no such process.
    """
    if pid == "self" and not (_PROC / "self").exists():
        return 0
    try:
        return (_PROC / str(pid) / "ns" / "pid").stat().st_ino
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None


def process_start(pid: int | str) -> int | None:
    """When a process started, in clock ticks since boot; None when it has ended (a zombie has).

    A zombie with more than one thread is a process whose first thread ended early: it lives.

    Raises:
        PermissionError: It exists, but cannot be looked at.
    """
    if not (_PROC / "self").exists():
        return _start_without_proc(int(pid))
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    ended = fields[0] in _ENDED and int(fields[_THREADS]) <= 1
    return None if ended else int(fields[_START])


def _start_without_proc(pid: int) -> int | None:
    """On macOS ``ps`` is the only witness; a digest of what it prints is as good as a number."""
    text = _output("ps", "-o", "lstart=", "-p", str(pid))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) if text else None


def _host() -> str:
    """Host name and machine id. The id itself should not be shown to others (machine-id(5))."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        machine = ""
    digest = hashlib.sha256(f"orchestrator:{machine}".encode()).hexdigest()[:16] if machine else ""
    return f"{socket.gethostname()}/{digest}"


def _output(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _text(values: dict[object, object], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name!r} in the owner label is {value!r}, not a text")  # noqa: TRY004
    return value


def _number(values: dict[object, object], name: str) -> int:
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name!r} in the owner label is {value!r}, not a number")
    return value
