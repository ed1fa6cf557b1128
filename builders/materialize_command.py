"""`pairwright materialize`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Table(StrEnum):
    """What training reads."""

    pairs = "pairs"
    demos = "demos"


class Form(StrEnum):
    """How prompts and completions are written."""

    standard = "standard"
    conversational = "conversational"


def materialize(
    directory: Annotated[Path, typer.Argument(help="A new or empty directory, or an earlier one of these.")],
    run: Annotated[str, typer.Option("--run", help="A run of pairs or demos.")],
    rev: Annotated[str | None, typer.Option("--rev", help="A tag, branch or commit (default: the checkout).")] = None,
    table: Annotated[Table, typer.Option(help="The run's table.")] = Table.pairs,
    model: Annotated[
        str | None, typer.Option("--model", help="A models run whose chat template renders prompts as strings.")
    ] = None,
    form: Annotated[
        Form | None, typer.Option("--format", help="Default: messages where prompts are conversations, else strings.")
    ] = None,
    test_answers: Annotated[bool, typer.Option("--test-answers", help="Keep rows of test problems.")] = False,
) -> None:
    """Writes a run of any version with its texts to a directory, for training without this project."""
    from builders.export import said
    from builders.materialize import materialize
    from stores.store import Store

    with Store.open(rev=rev) as store:
        written = materialize(store, run, directory, table.value, form.value if form else None, model, test_answers)
        version = f" of {store.revision}" if store.revision else ", not a revision: the checkout's"
    for line in said(written):
        print(f"{directory}: {line}{version}")
