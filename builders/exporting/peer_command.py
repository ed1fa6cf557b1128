"""`pairwright export-for`: a run in the form that another trainer reads."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from builders.exporting.peers import PEERS, Wanted
from stores.cli import RevOption


class Form(StrEnum):
    """How texts are written: rendered, or as messages."""

    standard = "standard"
    conversational = "conversational"


def export_for(
    peer: Annotated[str, typer.Argument(help=f"The trainer: {', '.join(PEERS)}.")],
    run: Annotated[str, typer.Argument(help="A run of pairs, demos or prompts.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A directory that does not exist yet.")],
    table: Annotated[str | None, typer.Option(help="pairs, demos or prompts (default: the trainer's first).")] = None,
    model: Annotated[str | None, typer.Option(help="A run of models, for whose tokenizer texts are rendered.")] = None,
    format: Annotated[Form | None, typer.Option(help="Rendered texts, or messages.")] = None,
    rev: RevOption = None,
    test_answers: Annotated[bool, typer.Option("--test-answers", help="Rows of test problems, too.")] = False,
) -> None:
    """Writes a run for TRL, LLaMA-Factory, OpenRLHF or verl, with a configuration and what it does to the tokens."""
    from builders.exporting.peers import export_for as export
    from stores.hub_release import is_hub_url
    from stores.store import Store

    if is_hub_url(rev):
        raise ValueError(
            f"{rev} is a published release, without the tables that are exported; name the Git revision that it was"
            " made from, or load its texts with `datasets`"
        )
    form = None if format is None else format.value
    with Store.open(rev=rev) as store:
        done = export(store, Wanted(peer, run, table, model, form, test_answers), directory)
    left = f" ({done.left_out:,} of test problems left out)" if done.left_out else ""
    print(f"{directory}: {done.rows:,} {done.table}{left}")
    if done.sentence:
        print(done.sentence)
