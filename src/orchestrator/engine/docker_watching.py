"""Looking into a container: its log, the memory it used, and what a command says there."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

from orchestrator.engine.docker_client import shown
from orchestrator.engine.docker_streams import open_stream, read_frames
from orchestrator.engine.port import ExecResult
from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orchestrator.engine.docker_client import ClientPool

_GONE: Final = (404, 409)
_ATTACHED: Final = {"Detach": False, "Tty": False}
_ENDING: Final = 0.01  # seconds between two looks at a command that closed its output
_MICROSECONDS: Final = 26  # of 2026-11-23T14:00:00.123456789Z
_PEAKS: Final = (
    "cat",
    "/sys/fs/cgroup/memory.peak",  # control groups version 2, Linux 5.19
    "/sys/fs/cgroup/memory/memory.max_usage_in_bytes",  # version 1
)
_OOM_KILLS: Final = (
    "cat",
    "/sys/fs/cgroup/memory.events",  # control groups version 2
    "/sys/fs/cgroup/memory/memory.oom_control",  # version 1
)


class DockerWatching:
    """The part of `DockerEngine` that looks into containers."""

    _pool: ClientPool

    def logs(
        self,
        container: str,
        /,
        *,
        tail: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> str:
        """The container's stdout and stderr in order; bytes that are not UTF-8 are replaced."""
        asked = self._on_its_clock(since), self._on_its_clock(until)
        with self._pool.client(f"read the logs of container {shown(container)}") as client:
            output: bytes = client.logs(
                container,
                tail="all" if tail is None else tail,
                since=asked[0],
                until=asked[1],
            )
        return output.decode(errors="replace")

    def _on_its_clock(self, moment: datetime | None) -> float | None:
        return None if moment is None else (moment + self._ahead).timestamp()

    @cached_property
    def _ahead(self) -> timedelta:
        """How far the daemon's clock is ahead of ours: another machine's seldom agrees.

        As little as it can be, so that no line is lost; nothing if the clocks may agree.
        """
        with self._pool.client("tell its time") as client:
            before = datetime.now(UTC)
            its = datetime.fromisoformat(client.info()["SystemTime"])
            after = datetime.now(UTC)
        return timedelta() if before <= its <= after else its - after

    def exec(self, container: str, argv: Sequence[str], /, *, user: str = "") -> ExecResult:
        """Run a command in the container, as the image's user or another, and wait for it."""
        # Only the command's name is told: arguments may hold passwords.
        with self._pool.client(f"run {argv[0]} in container {shown(container)}") as client:
            process = client.exec_create(container, list(argv), user=user)["Id"]
            # docker-py's own exec_start waits for ever for what the command says next.
            start = open_stream(client, "POST", f"/exec/{process}/start", json=_ATTACHED)
            with start as response:
                output = b"".join(read_frames(response))
            exit_code: int = _ended(client, process)["ExitCode"]
        return ExecResult(exit_code=exit_code, output=output.decode(errors="replace"))

    def follow_logs(self, container: str, /, *, after: str = "") -> Iterator[tuple[str, str]]:
        """Each line as it is written, with its time, until the container ends or is removed."""
        since = datetime.fromisoformat(after[:_MICROSECONDS] + "+00:00") if after > "1" else None
        options = {} if since is None else {"since": since.timestamp()}
        try:
            with self._pool.client(f"follow the log of container {shown(container)}") as client:
                pieces = client.logs(
                    container, stream=True, follow=True, timestamps=True, **options
                )
                for line in _lines(pieces):
                    at, _, text = line.partition(" ")
                    if at > after:
                        yield at, text
        except EngineError as error:
            if error.status not in _GONE:
                raise

    def peak_memory(self, container: str, /) -> int | None:
        """The most bytes the container has used; None when it has ended, or nobody there can say.

        The daemon would tell as well, after a second: it waits for its next round of measuring.
        """
        try:
            told = self.exec(container, _PEAKS)
        except EngineError:
            return None
        return next((int(line) for line in told.output.split("\n") if line.isdecimal()), None)

    def oom_kills(self, container: str, /) -> int:
        """How many of the container's processes were killed for lack of memory, as far as known.

        The daemon tells it of a container that has ended, and then of its first process only.
        """
        try:
            told = self.exec(container, _OOM_KILLS)
        except EngineError:
            return 0
        counts = (line.split() for line in told.output.split("\n"))
        return sum(int(words[1]) for words in counts if words[:1] == ["oom_kill"])


def _ended(client: Any, process: str) -> Mapping[str, Any]:
    """A command that has said its last, as soon as the daemon knows that it has ended."""
    deadline = time.monotonic() + client.timeout
    while (found := client.exec_inspect(process))["Running"]:
        if time.monotonic() > deadline:
            raise EngineError(f"The command has closed its output, but runs {client.timeout} s on")
        time.sleep(_ENDING)
    return cast("Mapping[str, Any]", found)


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
    if rest:
        yield rest.decode(errors="replace")
