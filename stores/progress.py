"""Progress of a long stage: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

LINE_EVERY_S = 10.0


class Progress:
    """Counts units of work; `advance` is cheap enough to call once per batch."""

    def __init__(self, title: str, total: int, unit: str, done: int = 0):
        self.title, self.total, self.unit, self.done, self.skipped = title, total, unit, done, done
        self.started = self.shown = time.monotonic()
        self.note = ""
        """What else is worth saying now."""

    def advance(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.shown >= LINE_EVERY_S:
            self.shown = now
            self.line(now)

    def line(self, now: float) -> None:
        rate = (self.done - self.skipped) / max(now - self.started, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        text = f"{self.title}: {self.done:,}/{self.total:,} {self.unit}, {rate:,.1f}/s, {_clock(left)} left"
        text += f"; {self.note}" if self.note else ""
        print(text, file=sys.stderr, flush=True)


class _RichProgress(Progress):
    def __init__(self, title: str, total: int, unit: str, done: int):
        super().__init__(title, total, unit, done)
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        rate = TextColumn("{task.fields[rate]}")
        self.bar = Bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        self.task = self.bar.add_task(title, total=total, completed=done, rate="")
        self.bar.start()

    def advance(self, count: int = 1) -> None:
        self.done += count
        rate = (self.done - self.skipped) / max(time.monotonic() - self.started, 1e-9)
        self.bar.update(self.task, completed=self.done, rate=f"{rate:,.1f} {self.unit}/s  {self.note}")


@contextmanager
def progress(title: str, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
    """Shows progress of `total` units, `done` of which were there already."""
    if sys.stderr.isatty():
        rich_bar = _RichProgress(title, total, unit, done)
        try:
            yield rich_bar
        finally:
            rich_bar.bar.stop()
        return
    plain = Progress(title, total, unit, done)
    yield plain
    if time.monotonic() - plain.started >= LINE_EVERY_S:
        plain.line(time.monotonic())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
