"""`pairwright eval MODEL PROBLEMS`: prints what `builders.evaluation.evaluate_model` returns."""

import json
from typing import Annotated, Any, Literal

import typer

from builders.sources.user_file import COLUMNS
from schemas.problems import AnswerKind
from schemas.slots import EngineName
from stores.cli import Format, print_rows

_COUNTS = ("n_correct", "n_wrong", "n_no_answer", "n_undecided", "n_truncated")


def eval_(
    model: Annotated[str, typer.Argument(help="A model of params, a directory, ORG/NAME@COMMIT, or hosted:NAME.")],
    problems: Annotated[
        str, typer.Argument(help="A problems run of params, SOURCE=PATH, SOURCE@COMMIT, or a file of questions.")
    ],
    template: Annotated[str | None, typer.Option(help="Prompt template (default: as params ask, or by kind).")] = None,
    rendering: Annotated[
        Literal["chat", "text"] | None, typer.Option(help="Of the prompts (default: chat if the model can).")
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="What generates.")] = "hf",
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Of the model's weights.")] = "fp32",
    split: Annotated[str | None, typer.Option(help="Split of a published source (default: test).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows of a source or a file.")] = None,
    answer_kind: Annotated[AnswerKind | None, typer.Option(help="Of a file's answers (default: number).")] = None,
    column: Annotated[list[str] | None, typer.Option(help="Of a file: OURS=THEIRS, as question=problem.")] = None,
    checker: Annotated[str, typer.Option(help="auto, or a checker's name.")] = "auto",
    k: Annotated[int, typer.Option(min=0, help="Sampled completions per problem, for maj@k and pass@k.")] = 0,
    temperature: Annotated[float, typer.Option(help="Of the sampled completions.")] = 0.8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest completion.")] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests of one committed batch.")] = 256,
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.table,
) -> None:
    """Evaluates any model on any problem set, outside `dvc repro`; what is generated goes through the ledger."""
    from builders.evaluation import Asked, evaluate_model

    asked = Asked(
        model, problems, template, rendering, engine, precision, split, limit, answer_kind, _columns(column or []),
        checker, k, temperature, max_new_tokens, batch_size,
    )  # fmt: skip
    found = evaluate_model(asked)
    if format is Format.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        print_rows(("metric", "value", "95 % interval", "problems"), _rows(found), format)


def _columns(given: list[str]) -> dict[str, str]:
    pairs = [column.partition("=") for column in given]
    wrong = [name for name, mark, theirs in pairs if not (mark and theirs)]
    if wrong:
        raise ValueError(f"--column {wrong[0]}: write OURS=THEIRS, as in question=problem")
    if unknown := [name for name, _, _ in pairs if name not in COLUMNS]:
        raise ValueError(f"--column {unknown[0]}: no column of ours (have {', '.join(COLUMNS)})")
    return {name: theirs for name, _, theirs in pairs}


def _rows(found: dict[str, Any]) -> list[tuple[str, object, str, int]]:
    """One row per share (accuracy, maj@k, pass@k, and accuracy by group), then the counts."""
    k, n = found["k"], found["n"]
    rows: list[tuple[str, object, str, int]] = [("accuracy", *_share(found["accuracy"], found["ci95"]), n)]
    rows += [
        (name.replace("_", "@"), *_share(found[name], found.get(f"{name}_ci95")), n)
        for name in dict.fromkeys((f"maj_{k}", "pass_1", f"pass_{k}"))
        if name in found
    ]
    for kind in ("steps", "level", "subject"):
        groups = found[f"by_{kind}"].items()
        rows += [(f"{kind} {group}", *_share(share["accuracy"], share["ci95"]), share["n"]) for group, share in groups]
    return [*rows, *((name.removeprefix("n_").replace("_", " "), found[name], "", n) for name in _COUNTS)]


def _share(value: float, interval: list[float] | None) -> tuple[str, str]:
    ends = f"{100 * interval[0]:.1f} – {100 * interval[1]:.1f}" if interval else ""
    return f"{100 * value:.1f} %", ends
