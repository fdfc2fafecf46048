"""How many workers this machine carries, and how much memory their services may use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_SHARE: Final = 0.8  # leaves room for the workers themselves and for everyone else
_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP_LIMITS: Final = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def cpus() -> int:
    """The CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_budget() -> int | None:
    """Bytes that all services together may use, or None when this cannot be known."""
    known = [free for free in (_free_memory(), *map(_free_in_group, _CGROUP_LIMITS)) if free]
    return int(min(known) * _SHARE) if known else None


def _free_memory() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _free_in_group(files: tuple[Path, Path]) -> int | None:
    limit, usage = files
    with suppress(OSError, ValueError):  # "max" is no number: there is no limit
        return max(0, int(limit.read_text()) - int(usage.read_text()))
    return None
