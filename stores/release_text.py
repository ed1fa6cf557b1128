"""The entry of a release in `DATA_CHANGELOG.md`: its rows, and how they differ from the last release and why."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING

from stores.diff import Count, Diff
from stores.diff_params import FunnelChange, ParamChange
from stores.diff_printing import markdown

if TYPE_CHECKING:
    from stores.store import RunRow

HEAD = "# Data changelog\n\nReleases of this project's data, the newest first (`pairwright release`).\n"
LONGEST = 30
"""Lines of a section; the rest is counted."""


def entry(name: str, version: str, notes: str, day: date, runs: "Sequence[RunRow]", found: Diff | None) -> str:
    """One section of the changelog, in Markdown."""
    blocks = [f"## {name} {version} ({day.isoformat()})", notes.strip(), *_rows(runs, found)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def with_entry(old: str | None, text: str) -> str:
    """The changelog with a new section on top of the others."""
    head, mark, rest = ("\n" + (old or HEAD)).partition("\n## ")
    return f"{head.strip()}\n\n{text}".lstrip() + (f"\n## {rest}" if mark else "")


def _rows(runs: "Sequence[RunRow]", found: Diff | None) -> Iterator[str]:
    yield _section("Rows", ("table", "run", "rows"), [(run.table, run.run, run.rows) for run in runs])
    if found is None:
        return
    with found:
        since = f"Since {found.names[0]}"
        yield _section(since, Count._fields, found.counts) or f"{since}: no row differs."
        yield _section("Params", ParamChange._fields, found.params)
        yield _section("Funnel", FunnelChange._fields, found.funnel)


def _section(title: str, columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    if not rows:
        return ""
    more = f"\n\n… and {len(rows) - LONGEST} more." if len(rows) > LONGEST else ""
    return f"### {title}\n\n" + "\n".join(markdown(columns, rows[:LONGEST])) + more
