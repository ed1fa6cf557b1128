"""`pairwright release`: shows what `stores.release` has worked out, and does it."""

from pathlib import Path
from typing import Annotated

import typer


def release(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A table, an export, or an artifact of dvc.yaml.")],
    version: Annotated[str, typer.Argument(metavar="VERSION", help="As in v1.0: the Git tag.")],
    notes: Annotated[str, typer.Option(help="What a reader of the changelog should know.")] = "",
    since: Annotated[str | None, typer.Option(metavar="REV", help="Compare with this instead of the last one.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
) -> None:
    """Releases data: the changelog's entry (from `diff`), the artifact in dvc.yaml, a commit of both, and its tags."""
    from stores.ending import ended_in_order
    from stores.plain import printable
    from stores.release import make, plan

    planned = plan(Path(), name, version, notes, since)
    print(printable(planned.shown()))
    if dry_run:
        print("\nnothing was written (--dry-run)")
        return
    with ended_in_order():
        commit = make(planned)
    print(f"\nreleased as {commit[:12]}; `dvc push && git push --follow-tags` sends it to others")
