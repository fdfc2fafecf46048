"""Who a process is, and whether it lives: yes, no, or cannot be told from here.

A pid alone is reused. A pid with its start time, PID namespace and boot is not: that is what goes
into the owner label of everything a session creates.

Only a proof counts as dead. Age is none, and a free pid is none by itself. What cannot be proved
(another host, another container seen from inside a container, another user's hidden process) is
"unknown", and unknown owners are left alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import subprocess
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
# Fields of /proc/PID/stat (proc(5)), counted from field 3, the state.
_THREADS: Final = 20 - 3
_START: Final = 22 - 3
_HELD: Final = "\0orchestrator-held-{}"  # abstract: no file (unix(7))
_ENDED: Final = frozenset("ZXx")
_INITIAL_PIDNS: Final = 0xEFFFFFFC  # PROC_PID_INIT_INO in the kernel's proc_ns.h
_FIELDS: Final = {"boot": str, "pidns": int, "pid": int, "start": int, "host": str}


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

    @property
    def may_end_its_container(self) -> bool:
        """Whether all processes around it may end with it, as with the first one of a container."""
        return self.pidns not in (0, _INITIAL_PIDNS)

    def to_label(self) -> str:
        """The text for the owner label."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_label(cls, text: str) -> Identity:
        """Read an owner label back; the ValueError says what is wrong with one that is not ours."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("the owner label is not JSON") from None
        if not isinstance(values, dict):
            raise ValueError("the owner label is not a JSON object")  # noqa: TRY004  # one error
        for name, kind in _FIELDS.items():
            value = values.get(name)
            if type(value) is not kind or (isinstance(value, int) and value < 0):
                raise ValueError(f"{name!r} in the owner label is {value!r}, which it cannot be")
        return cls(**{name: values[name] for name in _FIELDS})


class Liveness(StrEnum):
    """What is known about an owner."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"
    MALFORMED = "malformed"  # its label cannot be read


def this_process() -> Identity:
    """The identity of the calling process."""
    start = process_start("self" if (_PROC / "self").exists() else os.getpid()) or 0
    return Identity(
        boot=_boot_id(), pidns=_pid_namespace(), pid=os.getpid(), start=start, host=_host()
    )


def liveness(owner: Identity, *, here: Identity) -> Liveness:
    """Judge an owner from the process ``here``."""
    if not owner.boot or not here.boot:
        return Liveness.UNKNOWN
    if owner.boot != here.boot:
        # Of the machine before its reboot, or of another one. A farm of machines may share a host
        # name; without a machine id (containers often have none) nothing can be said.
        machine = here.host.rpartition("/")[2]
        return Liveness.DEAD if machine and owner.host == here.host else Liveness.UNKNOWN
    if owner.pidns == here.pidns:
        return _in_our_namespace(owner)
    return _in_another_namespace(owner, here=here)


def hold(session: str) -> socket.socket | None:
    """Have a session's things count as a living owner's while this is open, whoever made them.

    It is a name in the network namespace that the kernel takes back with the last process that has
    the socket; None on systems that have no such names.
    """
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(_HELD.format(session))
    except (OSError, ValueError):
        holder.close()
        return None
    return holder


def is_held(session: str) -> bool:
    """Whether a process here holds a session, of which it may not be the owner."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(_HELD.format(session))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
        except ValueError:  # nothing that was a session's
            return False
    return False


def _in_our_namespace(owner: Identity) -> Liveness:
    if _proc_is_foreign():
        return Liveness.UNKNOWN
    try:
        start = process_start(owner.pid)
    except PermissionError:
        return Liveness.UNKNOWN
    if start is None:
        return Liveness.UNKNOWN if _hidden(owner.pid) else Liveness.DEAD
    if start == owner.start:
        return Liveness.ALIVE
    return Liveness.UNKNOWN if _clocks_differ(owner.pid) else Liveness.DEAD


def _in_another_namespace(owner: Identity, *, here: Identity) -> Liveness:
    """Search every process we can see for one with the owner's namespace, pid and start time.

    Only from the initial namespace, and with all of /proc visible, "not found" is "not there".
    """
    pids = [path.name for path in _PROC.iterdir() if path.name.isdigit()]
    blind = here.pidns != _INITIAL_PIDNS or _proc_is_foreign() or "1" not in pids
    for pid in pids:
        try:
            found = _nested_pid(pid) == owner.pid and _started(pid, owner)
            if found and _pid_namespace(pid) == owner.pidns:
                return Liveness.ALIVE
        except PermissionError:  # that of a namespace takes more rights than the rest
            blind = True
        except (ProcessLookupError, FileNotFoundError):
            continue
    return Liveness.UNKNOWN if blind else Liveness.DEAD


def _started(pid: str, owner: Identity) -> bool:
    start = process_start(pid)
    if start is not None and start != owner.start and _clocks_differ(pid):
        raise PermissionError(pid)  # as good as hidden
    return start == owner.start


def _nested_pid(pid: str) -> int | None:
    """The pid inside a namespace below ours (proc(5), NSpid), None for those in ours."""
    for line in (_PROC / pid / "status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("NSpid:"):
            _label, *pids = line.split()
            return int(pids[-1]) if len(pids) > 1 else None
    return None


def _proc_is_foreign() -> bool:
    """Whether /proc shows another namespace's pids (unshare without a new mount of /proc)."""
    try:
        return str((_PROC / "self").readlink()) != str(os.getpid())
    except OSError:
        return False


def _hidden(pid: int) -> bool:
    """Whether a process exists although /proc does not show it (mount option hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    try:  # it is there: it became visible, or ended (a zombie still takes signals), meanwhile
        return process_start(pid) is not None
    except PermissionError:
        return True


def _clocks_differ(pid: int | str) -> bool:
    """Whether start times cannot be compared: time namespaces shift them (time_namespaces(7))."""
    try:
        theirs, ours = ((_PROC / str(it) / "ns" / "time").stat().st_ino for it in (pid, "self"))
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    return theirs != ours


def _boot_id() -> str:
    """The id of this boot, or an empty text where the system has none."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return _output("sysctl", "-n", "kern.bootsessionuuid")  # macOS


def _pid_namespace(pid: int | str = "self") -> int:
    """The inode of a process's PID namespace, 0 on systems without them."""
    if pid == "self" and not (_PROC / "self").exists():
        return 0
    try:
        return (_PROC / str(pid) / "ns" / "pid").stat().st_ino
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None


def process_start(pid: int | str) -> int | None:
    """When a process started, in clock ticks since boot; None when it has ended (a zombie has).

    A zombie with more than one thread is a process whose first thread ended early: it lives.
    Raises PermissionError for one that cannot be looked at.
    """
    if not (_PROC / "self").exists():
        # On macOS `ps` is the only witness; a digest of what it prints is as good as a number.
        said = _output("ps", "-o", "lstart=", "-p", str(pid))
        return int.from_bytes(hashlib.sha256(said.encode()).digest()[:6]) if said else None
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    ended = fields[0] in _ENDED and int(fields[_THREADS]) <= 1
    return None if ended else int(fields[_START])


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
