"""What a test result notes: outcomes, their entries in its lists, the run that each belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator.runner.collect import described, title_of
from orchestrator.runner.results import Outcome, Problem, Record

_LONGEST_MESSAGE: Final = 2000
_PAIR: Final = 2
_WORST_FIRST: Final = (
    Outcome.ERROR,
    Outcome.FAILURE,
    Outcome.UNEXPECTED_SUCCESS,
    Outcome.SKIPPED,
    Outcome.EXPECTED_FAILURE,
    Outcome.OK,
)


@dataclass(kw_only=True)
class Note:
    """An outcome that was added to a test; it counts while its entry is in the result's lists."""

    outcome: Outcome
    entry: Any = None
    problem: Problem | None = None


@dataclass(kw_only=True)
class Execution:
    """One run of a test, from ``startTest`` to ``stopTest``."""

    test: Any
    started: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    notes: list[Note] = field(default_factory=list)

    def record(self, standing: set[int]) -> Record:
        """How it ended; nothing added, or nothing left of it, is a success."""
        notes = [note for note in self.notes if note.entry is None or id(note.entry) in standing]
        outcomes = [note.outcome for note in notes]
        if Outcome.NOT_RUN in outcomes:
            outcome = Outcome.NOT_RUN
        else:
            outcome = min(outcomes, key=_WORST_FIRST.index, default=Outcome.OK)
        with_reason = (Outcome.SKIPPED, Outcome.NOT_RUN)
        return Record(
            test=described(self.test),
            outcome=outcome,
            problems=tuple(note.problem for note in notes if note.problem),
            reason=self.reason if outcome in with_reason else "",
            skips=outcomes.count(Outcome.SKIPPED),
            seconds=self.seconds,
        )


@dataclass(frozen=True)
class _Past:
    """What stands for a test in the result's lists once it has run."""

    name: str

    def id(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name


def light(entry: Any) -> Any:
    """An entry with a name for its test, so that the test is kept alive no longer."""
    if not isinstance(entry, tuple):
        return entry if isinstance(entry, _Past) else _Past(str(entry))
    test, *rest = entry
    return entry if isinstance(test, _Past) else (_Past(str(test)), *rest)


def _unexpected(test: Any) -> Problem:
    return Problem(
        outcome=Outcome.UNEXPECTED_SUCCESS,
        title=title_of(test),
        kind="UnexpectedSuccess",
        message="the test is marked as an expected failure and passed",
        text="",
    )


def note_of(outcome: Outcome, entry: Any) -> Note:
    """What an entry of a list says that did not come through a method."""
    test, text = parts(entry)
    note = Note(outcome=outcome, entry=entry)
    if outcome in (Outcome.ERROR, Outcome.FAILURE):
        kind, _, message = text.rstrip().rpartition("\n")[2].partition(": ")
        title = title_of(test)
        note.problem = Problem(outcome=outcome, title=title, kind=kind, message=message, text=text)
    elif outcome is Outcome.UNEXPECTED_SUCCESS:
        note.problem = _unexpected(test)
    return note


def parts(entry: Any) -> tuple[Any, str]:
    """The test and the text of an entry; whoever puts in something else has no text."""
    if isinstance(entry, tuple) and len(entry) == _PAIR:
        return entry[0], str(entry[1])
    return entry, ""


def message_of(error: BaseException | None) -> str:
    """What an exception says, cut where that is very long."""
    try:
        return cut(str(error), _LONGEST_MESSAGE)
    except Exception:  # noqa: BLE001 - str() of a user's exception may raise anything
        return "(the message cannot be shown)"


def cut(text: str, longest: int) -> str:
    """A text without the middle of it, where it is too long."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n… {len(text) - longest} characters left out …\n{text[-half:]}"
