"""What the start of a class waited for, recorded when ``ORCHESTRATOR_TIMELINE`` asks for it.

It becomes a page that needs nothing else, to which each class, of whichever worker, adds its part
under a lock; a new run begins a new page. Browsers close what is left open at its end.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from orchestrator.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

OF_CLASS: Final = ""
"""The row of what the class as a whole waits for."""
_STYLE: Final = "timeline.css"
_TICKS: Final = 6  # at most, beside 0
_GAP: Final = 0.01  # seconds; what is shorter is not named
_PHASES: Final = {
    "waits": "another service",
    "session": "own a session",
    "network": "the network",
    "image": "look for, pull or build the image",
    "create": "create the container",
    "files": "write files",
    "start": "start the container",
    "probe": "until the server answers",
    "prepare": "migrations and the like",
    "shared": "a service of the process",
    "own": "this process: files, a free port, other threads' turns",
}
_HEAD: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<!-- run {run} -->
<title>What the start of each class waited for</title>
<style>
{style}</style>
<h1>What the start of each class waited for</h1>
<div class="legend">{legend}</div>
"""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One thing that took time, in seconds from the beginning of the class's start."""

    row: str  # the service's alias, or `OF_CLASS`
    phase: str
    began: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The start of one class."""

    test_class: str
    needs: Mapping[str, Sequence[str]]  # alias to the aliases it waits for
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    spans: list[Span] = field(default_factory=list)
    _zero: float = field(default_factory=time.monotonic)

    @contextlib.contextmanager
    def span(self, row: str, phase: str) -> Iterator[None]:
        """Record how long the block takes, also when it fails."""
        began = time.monotonic() - self._zero
        try:
            yield
        finally:
            ended = time.monotonic() - self._zero
            self.spans.append(Span(row=row, phase=phase, began=began, ended=ended))

    def rows(self) -> Mapping[str, Sequence[Span]]:
        """The spans of each row, the class's first; with what each service waited for."""
        found: dict[str, list[Span]] = {OF_CLASS: [], **{alias: [] for alias in self.needs}}
        for span in sorted(self.spans, key=lambda span: span.began):
            found[span.row].append(span)
        ready = max((it.ended for it in found[OF_CLASS] if it.phase == "session"), default=0.0)
        return {row: self._without_gaps(row, spans, ready=ready) for row, spans in found.items()}

    def _without_gaps(self, row: str, spans: Sequence[Span], *, ready: float) -> Sequence[Span]:
        """A row's spans, and what the time between them was."""
        filled: list[Span] = []
        waits = ", ".join(self.needs.get(row, ())) or ("" if row == OF_CLASS else "the session")
        end = 0.0
        for span in spans:
            if not filled and waits:
                end = span.began if self.needs[row] else min(ready, span.began)
                filled.append(Span(row=row, phase=f"waits for {waits}", began=0.0, ended=end))
            own = Span(row=row, phase=f"own work before {span.phase}", began=end, ended=span.began)
            end = max(end, span.ended)
            filled += [own, span]
        return [it for it in filled if it in spans or it.ended - it.began >= _GAP]

    @property
    def seconds(self) -> float:
        """How long the whole start took."""
        return max((span.ended for span in self.spans), default=0.0)


def add_to_page(path: Path, timeline: Timeline, *, run: str, error: str | None) -> None:
    """Add one class's start to the page of its run."""
    from importlib import resources  # as seldom needed

    style = resources.files(__package__).joinpath(_STYLE).read_text(encoding="utf-8")
    legend = "".join(
        f'<span><i class="{phase}"></i>{phase}: {meaning}</span>'
        for phase, meaning in _PHASES.items()
    )
    head = _HEAD.format(run=_escaped(run), style=style, legend=legend).encode()
    piece = _section(timeline, error=error).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if file.read(len(head)) != head:
            file.truncate(0)
            file.write(head)
        file.write(piece)


def _section(timeline: Timeline, *, error: str | None) -> str:
    whole = timeline.seconds or 1.0
    last = max(timeline.spans, key=lambda span: span.ended, default=None)
    step = _round_step(whole)
    marks = "".join(
        f'<span style="left:{100 * tick * step / whole:.2f}%">{tick * step:.10g}</span>'
        for tick in range(int(whole / step) + 1)
    )
    lines = [
        f'<div class="row"><span{" class=last" if last and last.row == row else ""}>'
        f"{_escaped(row or 'class')}</span>"
        f'<div class="track">{"".join(_bar(span, whole=whole) for span in spans)}</div>'
        f"<span>{max(span.ended for span in spans):.2f} s</span></div>"
        for row, spans in timeline.rows().items()
        if spans
    ]
    axis = (
        f'<div class="row axis"><span></span><div class="track">{marks}</div><span>s</span></div>'
    )
    return (
        f"<section><h2>{_escaped(timeline.test_class)}</h2>"
        f"{_summary(timeline, last=last, error=error)}"
        f'<div style="--step:{100 * step / whole:.3f}%">{axis}{"".join(lines)}</div></section>\n'
    )


def _round_step(seconds: float) -> float:
    """One, two or five of a power of ten: how far the ticks of an axis are apart."""
    power = 10.0 ** math.floor(math.log10(seconds / _TICKS))
    return float(next(n * power for n in (1, 2, 5, 10) if seconds <= _TICKS * n * power))


def _summary(timeline: Timeline, *, last: Span | None, error: str | None) -> str:
    at = timeline.at.astimezone().isoformat(sep=" ", timespec="seconds")
    if error is not None:
        text = f"{at}: failed after {timeline.seconds:.2f} s: {error}"
        return f'<p class="failed">{_escaped(text)}</p>'
    name = last.row if last else OF_CLASS
    was = f"; the last was {_escaped(name)}" if name != OF_CLASS else ""
    return f"<p>{at}: ready after {timeline.seconds:.2f} s{was}</p>"


def _bar(span: Span, *, whole: float) -> str:
    left, width = 100 * span.began / whole, 100 * (span.ended - span.began) / whole
    kind = span.phase.split()[0]
    title = _escaped(f"{span.phase}: {span.ended - span.began:.3f} s, from {span.began:.3f} s")
    return f'<i class="{kind}" style="left:{left:.2f}%;width:{width:.2f}%" title="{title}"></i>'


def _escaped(text: str) -> str:
    import html  # not at import: few ask for the page

    lines = (printable(line, lines=False) for line in text.splitlines())  # without colours
    return html.escape("\n".join(lines))
