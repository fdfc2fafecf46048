"""The report on the terminal, in the words and order of ``unittest.TextTestRunner``."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TextIO

from orchestrator.errors import printable
from orchestrator.progress import News
from orchestrator.runner.options import NORMAL, QUIET, VERBOSE
from orchestrator.runner.results import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.runner.results import Problem, Record, Results
    from orchestrator.runner.worker_handle import WorkerHandle

_THICK: Final = "=" * 70
_THIN: Final = "-" * 70
_QUICK: Final = 0.001
_REFRESH: Final = 0.2  # seconds between two drawings of a terminal's last line
_ERASE: Final = "\r\x1b[K"
_DOTS: Final = {
    Outcome.OK: ".",
    Outcome.FAILURE: "F",
    Outcome.ERROR: "E",
    Outcome.SKIPPED: "s",
    Outcome.EXPECTED_FAILURE: "x",
    Outcome.UNEXPECTED_SUCCESS: "u",
    Outcome.NOT_RUN: "",
}
_WORDS: Final = {Outcome.ERROR: "ERROR", Outcome.FAILURE: "FAIL"}
_VERDICTS: Final = {
    Status.OK: "OK",
    Status.NOT_COLLECTED: "NOT COLLECTED",
    Status.NOTHING_RAN: "NO TESTS RAN",
    Status.INTERRUPTED: "INTERRUPTED",
}


class Text:
    """Writes as things happen, and the summary at the end.

    A closed pipe or terminal silences it; the run goes on, because workers have to be torn down.
    """

    def __init__(self, stream: TextIO | None, *, stdout: TextIO, verbosity: int) -> None:
        self._stream = stream
        self._stdout = stdout
        self._together = _same_file(stream, stdout)
        self._verbosity = verbosity
        self._in_dots = False
        self._live = stream is not None and stream.isatty()  # whether there can be a live line
        self._line_shown = ""
        self._news = News()
        self._line_due = 0.0
        self._expected = self._ended = 0

    # While it runs

    def planned(self, results: Results) -> None:
        """The tests are known."""
        self._expected = sum(len(unit.order) for unit in results.units)

    def ended(self, record: Record, *, again: bool) -> None:
        """A test ended; it runs again if it failed and is to."""
        self._ended += 1
        self._expected += again and record.failed
        if self._verbosity == NORMAL:
            problems = "".join(_DOTS[problem.outcome] for problem in record.problems)
            self._dots("R" if again and problems else problems or _DOTS[record.outcome])
        elif self._verbosity == VERBOSE:
            subtests = [it for it in record.problems if it.title != record.test.title]
            for problem in subtests:
                self._line(f"  {problem.title} ... {_WORDS[problem.outcome]}")
            if len(subtests) < len(record.problems) or not subtests:
                retried = " (runs again)" if again and record.failed else ""
                self._line(f"{record.test.title} ... {_status(record)}{retried}")

    def fixture_failed(self, problem: Problem, *, again: bool) -> None:
        """A class or module fixture failed, or a worker died in it; its class may run again."""
        if self._verbosity == NORMAL:
            self._dots("R" if again else _DOTS[problem.outcome])
        elif self._verbosity == VERBOSE:
            retried = " (runs again)" if again else ""
            self._line(f"{problem.title} ... {_WORDS[problem.outcome]}{retried}")

    def output(self, source: str, text: str, *, stdout: Iterable[bytes]) -> None:
        """Show what a class printed, in one piece: its stdout as it is, ``text`` between lines."""
        framed = text or self._together
        if framed:
            self._line(f"{f'-- output of {source} ':-<70}")
        else:
            self._clear()
        last = self._print(stdout)
        if self._together and not last.endswith(b"\n"):
            self._line("")
        if text:
            self._write(f"{text.rstrip(chr(10))}\n")  # as it was printed
        if framed:
            self._line(_THIN)

    def note(self, text: str) -> None:
        """Say something about the run itself."""
        self._line(text)

    def told(self, about: str, text: str, *, over: bool) -> None:
        """Show how far something is that takes a while, such as a pull."""
        line = self._news.take(about, text, over=over)
        if line and self._verbosity > QUIET and (over or not self._live):
            self._line(line)

    def tick(self, workers: Sequence[WorkerHandle]) -> None:
        """Draw the terminal's last line, unless it was drawn just now: what takes a while.

        With ``-v`` that is also what runs where.
        """
        now = time.monotonic()
        if not self._live or self._verbosity == QUIET or now < self._line_due:
            return
        parts = list(self._news.latest.values())
        if self._verbosity == VERBOSE:
            parts += [
                f"[{it.number}] {printable(_place(it), lines=False)} {now - it.since:.0f}s"
                for it in workers
                if it.unit is not None
            ]
        width = shutil.get_terminal_size().columns - 1
        line = f"{self._ended}/{self._expected}  {'  '.join(parts)}"[:width] if parts else ""
        if line != self._line_shown:
            self._clear()
            if line:
                self._end_dots()
                self._write(line)
            self._line_shown, self._line_due = line, now + _REFRESH

    # At the end

    def summary(self, results: Results, *, durations: int | None) -> None:
        """Every failure in collected order, then one line with the figures."""
        self._clear()
        if self._verbosity >= NORMAL:
            self._line("")
        problems, records = list(results.problems()), list(results.records())
        for outcome, word in _WORDS.items():
            for problem in problems:
                if problem.outcome is outcome:
                    self._line(f"{_THICK}\n{word}: {problem.title}\n{_THIN}\n{problem.details}")
        unexpected = [p.title for p in problems if p.outcome is Outcome.UNEXPECTED_SUCCESS]
        if unexpected:
            self._line("\n".join([_THICK, *(f"UNEXPECTED SUCCESS: {it}" for it in unexpected)]))
        flaky = [problem for it in records if it.flaky for problem in it.earlier]
        for problem in dict.fromkeys(flaky):  # that of a fixture is each test's
            self._line(f"{_THICK}\nFLAKY: {problem.title}\n{_THIN}\n{problem.details}")
        if durations is not None:
            self._durations(records, durations)
        reasons = Counter(it.reason for it in records if it.outcome is Outcome.NOT_RUN)
        for reason, count in reasons.items():
            self._line(f"Not run: {count} test{'s'[: count != 1]} ({reason})")
        ran = len(records) - reasons.total()
        self._line(f"{_THIN}\nRan {ran} test{'s'[: ran != 1]} in {results.seconds:.3f}s\n")
        self._line(_verdict(results, records, problems))

    def _durations(self, records: list[Record], count: int) -> None:
        ran = [record for record in records if record.outcome is not Outcome.NOT_RUN]
        slowest = sorted(ran, key=lambda record: -record.seconds)[: count or None]
        shown = [it for it in slowest if self._verbosity == VERBOSE or it.seconds >= _QUICK]
        self._line(f"Slowest test durations\n{_THIN}")
        for record in shown:
            self._line(f"{f'{record.seconds:.3f}s':<10} {record.test.name}")
        if len(shown) < len(slowest):
            self._line("\n(durations < 0.001s were hidden; use -v to show these durations)")
        self._line("")

    # Writing

    def _clear(self) -> None:
        """Take the live line away, so that something else can be written."""
        if self._line_shown:
            self._line_shown = ""
            self._write(_ERASE)

    def _dots(self, dots: str) -> None:
        if dots:
            self._clear()
            self._in_dots = True
            self._write(dots)

    def _end_dots(self) -> None:
        if self._in_dots:
            self._in_dots = False
            self._write("\n")

    def _line(self, text: str) -> None:
        self._clear()
        self._end_dots()
        self._write(f"{printable(text)}\n")

    def _print(self, chunks: Iterable[bytes]) -> bytes:
        """Copy to stdout, and return the last of it; that nobody reads it any more is no error."""
        last = b"\n"
        try:
            for last in chunks:
                if raw := getattr(self._stdout, "buffer", None):
                    raw.write(last)
                else:
                    self._stdout.write(last.decode(errors="backslashreplace"))
            self._stdout.flush()
        except (OSError, ValueError, AttributeError):  # closed, or there was none
            with suppress(OSError, ValueError, AttributeError):  # what it holds must go somewhere
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, self._stdout.fileno())
                os.close(nothing)
        return last

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None
        except UnicodeEncodeError:
            self._stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))


def _same_file(one: Any, other: Any) -> bool:
    """Whether two streams end in one place, such as a terminal."""
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError, AttributeError):
        return False


def _place(worker: WorkerHandle) -> str:
    """The test, else the fixture, else the unit that a worker is at."""
    if worker.test is not None:
        return worker.test.id
    return worker.phase or (worker.unit.unit.key if worker.unit else "")


def _status(record: Record) -> str:
    if record.outcome is Outcome.SKIPPED:
        return f"skipped {record.reason!r}"
    if record.outcome is Outcome.NOT_RUN:
        return f"not run ({record.reason})"
    word = _WORDS.get(record.outcome, record.outcome.value)
    return f"{word} (FLAKY: it failed before)" if record.flaky else word


def _verdict(results: Results, records: list[Record], problems: list[Problem]) -> str:
    problems_of = Counter(problem.outcome for problem in problems)
    tally = Counter(record.outcome for record in records)
    figures = (
        ("failures", problems_of[Outcome.FAILURE]),
        ("errors", problems_of[Outcome.ERROR]),
        ("skipped", sum(record.skips for record in records)),
        ("expected failures", tally[Outcome.EXPECTED_FAILURE]),
        ("unexpected successes", problems_of[Outcome.UNEXPECTED_SUCCESS]),
        ("not run", tally[Outcome.NOT_RUN]),
        ("flaky", sum(record.flaky for record in records)),
    )
    details = ", ".join(f"{name}={count}" for name, count in figures if count)
    word = _VERDICTS.get(results.status, "FAILED")
    return f"{word} ({details})" if details and results.status != Status.NOT_COLLECTED else word
