"""The published step pairs in and out: every row comes back code point for code point, whatever it looks like."""

import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import pairs_import, pairs_union
from builders.commands import export_steps
from builders.step_pair_export import export_step_pairs
from builders.step_pair_rows import PIPELINE, PUBLISHED, Origin, Side, side
from schemas import Pair
from stores.paths import run_dir
from stores.stage import execute
from stores.store import Store
from tests import stage_world as world
from tests.hub_server import COMMIT, hub_server

TABLES = ("problems", "answers", "prompts", "samples", "pairs")
START = "Let's think step by step. \nStep 1:"  # as nearly all published rows begin


def row(**columns: Any) -> dict[str, Any]:
    """A row in the shape of nearly all published ones, or with other columns."""
    regular = {
        "dataset": "GSM_Rephrased", "prompt": "How many legs have 2 cats?", "initial_reason_steps": START,
        "chosen": "A cat has 4 legs.", "rejected": "A cat has 3 legs.",
        "full_chosen": "A cat has 4 legs.\nStep 2: 2 × 4 = 8.\nThe answer is: 8",
        "full_rejected": "A cat has 3 legs.\nStep 2: 2 × 3 = 6.\nThe answer is: 6", "answer": "8",
    }  # fmt: skip
    return regular | columns


STEPS_2 = START + " A cat has 4 legs.\nStep 2:"
ROWS = [
    row(),
    row(
        chosen="Cats have 4 legs.", full_chosen="Cats have 4 legs.\nStep 2: so 8."
    ),  # the same prefix and rejected text
    row(),  # a repeated row
    row(initial_reason_steps="Let's think step by step. Step 1:"),
    row(initial_reason_steps=STEPS_2.replace("Step 2:", "Step 16:"), chosen=" 2 × 4 = 8"),  # misnumbered; not the start
    row(full_chosen=START + "A cat has 4 legs.\nStep 2: 8", full_rejected=""),  # repeats the start; nothing
    row(rejected="A cat has 3 legs.\nStep 2: 6", full_rejected="A cat has 3 legs."),
    row(answer="eight"),
    row(answer=" "),
    row(prompt="How many legs has 1 cat? \n", answer=""),
    row(prompt="How many legs has 1 cat? \n", answer="4"),
    row(dataset="", initial_reason_steps="", chosen="4\u0301😀 ", full_chosen="4\u0301😀 \r\n\u2028"),
]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=4))
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def imported(name: str = "steps.jsonl", **given: Any) -> None:
    run = {"path": name, "licence": "CC-BY-NC-4.0", "rendering": "text"} | given
    world.write_params(pairs_import={"p": run})
    execute("pairs_import", "p", pairs_import.run)


def exported(name: str = "out.jsonl", run: str = "p", pipeline: bool = False) -> list[dict[str, Any]]:
    with Store.open() as store:
        count = export_step_pairs(store, run, Path(name), pipeline)
    if name.endswith(".parquet"):
        rows = pq.read_table(name).to_pylist()
    else:
        rows = [json.loads(line) for line in Path(name).read_text(encoding="utf-8").split("\n")[:-1]]
    assert len(rows) == count
    return rows


def tables() -> dict[str, bytes]:
    return {table: (run_dir(table, "p") / "part-00000.parquet").read_bytes() for table in TABLES}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_every_row_comes_back(workspace: Path, suffix: str) -> None:
    write(Path(f"steps{suffix}"), ROWS)
    imported(f"steps{suffix}")
    assert exported() == ROWS
    assert exported("out.parquet") == ROWS
    assert world.rejects("pairs_import", "p") == []
    with Store.open() as store:
        assert store.check() == []


def test_importing_what_was_exported_makes_the_same_tables(workspace: Path) -> None:
    write(Path("steps.jsonl"), [row(chosen=""), *ROWS])
    imported()
    before = tables()
    exported("steps.jsonl")
    imported()
    assert tables() == before


def test_a_regular_row_is_a_pair_of_steps_in_two_samples(workspace: Path) -> None:
    write(Path("steps.jsonl"), ROWS[:3])
    imported()
    (problem,) = world.read("problems", "p")
    assert (problem["source"], problem["split"], problem["question"], problem["answer_kind"], problem["licence"]) == (
        "GSM_Rephrased", "train", "How many legs have 2 cats?", "latex", "CC-BY-NC-4.0",
    )  # fmt: skip
    assert world.read("answers", "p") == [{"problem_id": problem["problem_id"], "answer": "8"}]
    (prompt,) = world.read("prompts", "p")
    assert prompt["prefill"] == START
    assert problem["question"] in prompt["messages"][0]["content"]
    samples = {sample["sample_id"]: sample for sample in world.read("samples", "p")}
    assert {s["prompt_id"] for s in samples.values()} == {prompt["prompt_id"]}
    assert sorted((s["model"], s["index"]) for s in samples.values()) == [
        ("imported:chosen:0", 0), ("imported:chosen:0", 1), ("imported:chosen:0", 2), ("imported:rejected:0", 0),
    ]  # fmt: skip
    pairs = world.read("pairs", "p")
    assert [pair["rank"] for pair in pairs] == [0, 1, 2]
    for pair, given_row in zip(pairs, ROWS, strict=False):
        for name in ("chosen", "rejected"):
            text = samples[pair[f"{name}_sample_id"]]["text"]
            assert text == given_row[f"full_{name}"]
            assert text[pair[f"{name}_start"] : pair[f"{name}_end"]] == given_row[name]
            assert pair[f"{name}_eos"] is False


def test_pairs_of_whole_completions_end_where_the_full_text_is_known(workspace: Path) -> None:
    write(Path("steps.jsonl"), [row(), row(full_chosen="something else")])
    imported(span="completion")
    first, second = world.read("pairs", "p")
    assert (first["chosen_end"], first["chosen_eos"]) == (len(row()["full_chosen"]), True)
    assert (second["chosen_end"], second["chosen_eos"]) == (len(row()["chosen"]), False)
    with pytest.raises(ValueError, match=r"pairs_import\.p are whole completions, not steps; name a run of pairs_step"):
        exported()


@pytest.mark.parametrize(
    ("full", "expect"),
    [
        ("step.\nStep 2: rest", Side("step.\nStep 2: rest", 5, True, None)),
        ("step.", Side("step.", 5, True, None)),
        ("Step 1:step. rest", Side("step. rest", 5, True, "Step 1:step. rest")),
        ("Step 1: step. rest", Side("step.", 5, False, "Step 1: step. rest")),
        ("", Side("step.", 5, False, "")),
        (None, Side("step.", 5, False, None)),
    ],
)
def test_what_a_sides_sample_is(full: str | None, expect: Side) -> None:
    assert side("Step 1:", "step.", full) == expect


def test_pairs_are_numbered_in_blocks() -> None:
    found = Origin("chosen", 20_795)
    assert (found.model, found.place) == ("imported:chosen:2", 795)


def test_more_pairs_than_an_index_has_numbers_keep_their_order(workspace: Path) -> None:
    rows = [row(prompt=f"How many legs have {i % 7} cats?", answer=str(i)) for i in range(10_050)]
    random.Random(0).shuffle(rows)
    write(Path("steps.parquet"), rows)
    imported("steps.parquet")
    assert exported() == rows


@pytest.mark.parametrize(
    ("given_row", "expect"),
    [
        (row(chosen=""), ("empty", "row 2: no chosen")),
        (row(rejected=""), ("empty", "row 2: no rejected")),
        (row(prompt=" \n"), ("empty", "row 2: no prompt")),
        (row(full_chosen=None), ("empty", "row 2: no full_chosen")),
        (row(answer=None), ("no_answer", "row 2: no answer")),
    ],
)
def test_what_is_no_pair_is_a_reject_with_its_row(workspace: Path, given_row: dict, expect: tuple[str, str]) -> None:
    write(Path("steps.jsonl"), [row(), given_row, row(answer="9")])
    imported()
    assert world.rejects("pairs_import", "p") == [(None, None, *expect)]
    assert exported() == [row(), row(answer="9")]


@pytest.mark.parametrize(
    ("given_row", "message"),
    [
        (row(answer=8), r"steps\.jsonl line 1: column 'answer' must be text, not int"),
        ({"dataset": "x"}, r"steps\.jsonl line 1: no column 'prompt' \(have 'dataset'\)"),
        (row(chosen="\ud83d"), r"line 1: column 'chosen' holds half of a surrogate pair"),
    ],
)
def test_a_row_in_another_shape_is_an_error_that_names_it(workspace: Path, given_row: dict, message: str) -> None:
    Path("steps.jsonl").write_text(json.dumps(given_row))
    with pytest.raises(ValueError, match=message):
        imported()


def test_a_window_of_the_file(workspace: Path) -> None:
    write(Path("steps.jsonl"), ROWS)
    imported(skip=2, limit=4)
    assert exported() == ROWS[2:6]
    with pytest.raises(ValueError, match="skip: 12 leaves no row of the file; lower it"):
        imported(skip=12)


def test_what_the_authors_pipeline_writes(workspace: Path) -> None:
    rows = [{theirs: one[ours] for ours, theirs in PIPELINE.items()} for one in ROWS[:2]]
    write(Path("steps.json"), rows)
    imported("steps.json")
    assert exported(pipeline=True) == rows
    assert [found["full_rejected"] for found in exported()] == [found["rejected"] for found in rows]


# --- any rows ------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
STARTS = st.sampled_from([START, STEPS_2, "", "Let's think step by step. Step 1:", "\nStep 7:"])


@st.composite
def published_rows(draw: st.DrawFn) -> dict[str, str]:
    """A row whose full texts go on from the step, repeat the start, or have nothing to do with it."""
    start, steps = draw(STARTS), [draw(TEXTS.filter(bool)), draw(TEXTS.filter(bool))]
    shapes = st.sampled_from(["{step}{rest}", "{start}{step}{rest}", "{rest}", "{step}"])
    full = [draw(shapes).format(step=step, start=start, rest=draw(TEXTS)) for step in steps]
    question, source, answer = draw(st.sampled_from(["Q?", " Q?", "Ω"])), draw(st.sampled_from("ab")), draw(TEXTS)
    values = source, question, start, *steps, *full, answer
    return dict(zip(PUBLISHED, values, strict=True))


@settings(max_examples=15)
@given(st.lists(published_rows(), min_size=1, max_size=6))
def test_any_rows_come_back_and_make_the_same_tables_again(workspace: Path, rows: list[dict[str, str]]) -> None:
    write(Path("steps.jsonl"), rows)
    imported()
    before = tables()
    assert exported("steps.jsonl") == rows
    imported()
    assert tables() == before


# --- pairs that were made here -------------------------------------------------------------------------------------

STEP_PAIRS = {
    "rejected": "drawn", "rejected_prompts": "train", "step_labels": "found", "prompts": "step", "chosen": "rectified",
    "rewards": "none", "judged": "none",
}  # fmt: skip
FOUND = {
    "samples": "drawn", "prompts": "train", "problems": "train", "rewards": "none", "labeler": "rule", "model": "none",
    "path": "data/none", "neutral_is_error": False,
}  # fmt: skip
MADE: dict[str, Any] = {
    "step_labels": {"found": FOUND},
    "prompts_step": {"step": {"samples": "drawn", "prompts": "train", "step_labels": "found"}},
    "samples": {"drawn": world.SAMPLES, "rectified": world.SAMPLES | {"prompts": "step"}},
    "pairs_step": {"made": STEP_PAIRS},
}


@pytest.fixture
def made(workspace: Path) -> dict[str, str]:
    """A pair as `pairs_step` makes it, of hand-written tables; returns the row that it is to be."""
    world.write_params(**MADE)
    asked = world.problem("Legs of 2 cats?")
    ask, wrong = world.prompt(asked, prefill=START + " "), "A cat has 4 legs.\nStep 2: 2 × 4 = 9.\nStep 3: 9."
    step = world.prompt(asked, prefill=START + " A cat has 4 legs.\nStep 2:")
    first, second = world.sample(ask, 0, wrong), world.sample(step, 3, " 2 × 4 = 8.\nStep 3: 8.")
    world.write("problems", "train", [asked])
    world.write("answers", "train", [world.answer(asked, "8")])
    for table, run, rows in (("prompts", "train", [ask]), ("prompts", "step", [step]), ("samples", "drawn", [first]),
                             ("samples", "rectified", [second])):  # fmt: skip
        world.write(table, run, rows)
    start = wrong.index(" 2 × 4 = 9.")
    spans = {"chosen_sample_id": second.sample_id, "chosen_start": 0, "chosen_end": 11, "chosen_eos": False,
             "rejected_sample_id": first.sample_id, "rejected_start": start, "rejected_end": start + 11,
             "rejected_eos": False}  # fmt: skip
    pair = {"prompt_id": step.prompt_id, "rank": 0, "problem_id": asked.problem_id} | spans
    world.write("pairs", "made", [Pair.model_validate(pair)])
    return row(
        dataset="made", prompt=asked.question, initial_reason_steps=step.prefill, chosen=" 2 × 4 = 8.",
        rejected=" 2 × 4 = 9.", full_chosen=" 2 × 4 = 8.\nStep 3: 8.", full_rejected=" 2 × 4 = 9.\nStep 3: 9.",
    )  # fmt: skip


def test_pairs_made_here_come_out_in_the_same_columns_and_in_again(made: dict[str, str]) -> None:
    assert exported(run="made") == [made]
    imported("out.jsonl")
    assert exported("again.jsonl") == [made]


def test_a_union_of_step_pairs_is_one(made: dict[str, str]) -> None:
    union = {"a": "made", "b": "none", "c": "none", "d": "none", "problems": "none"}
    world.write("problems", "none", [])
    world.write_params(**MADE, pairs_union={"all": union})
    execute("pairs_union", "all", pairs_union.run)
    assert exported(run="all") == [made]


OUTCOME = {"samples": "drawn", "rewards": "judged", "step_labels": "none", "gold": "none", "k": 1}
JUDGED = {
    "predictions": {"p": {"samples": "drawn", "prompts": "train", "problems": "train"}},
    "rewards": {"judged": {"predictions": "p", "problems": "train"}},
}


@pytest.mark.parametrize(
    ("run", "name", "message"),
    [
        ("made", "out.csv", r"out\.csv: not a kind of file that is written; name it \.parquet or \.jsonl"),
        ("mede", "out.jsonl", r"no run 'mede' of pairs in params\.yaml \(have 'made', 'outcome', 'union'\)"),
        ("outcome", "out.jsonl", r"^pairs of pairs_outcome\.outcome are whole completions, not steps; name a run of"),
        ("union", "out.jsonl", r"^pairs of pairs_outcome\.outcome are whole"),
        ("made", "out.jsonl", r"pairs run 'made' is not built; run `dvc repro`"),
    ],
)
def test_what_cannot_be_exported(workspace: Path, run: str, name: str, message: str) -> None:
    union = {"a": "made", "b": "outcome", "c": "none", "d": "none", "problems": "none"}
    world.write_params(**MADE, **JUDGED, pairs_outcome={"outcome": OUTCOME}, pairs_union={"union": union})
    with Store.open() as store, pytest.raises(ValueError, match=message):
        export_step_pairs(store, run, Path(name))
    assert not Path(name).exists()


def test_the_command_says_what_it_wrote(made: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    export_steps("made", Path("out.parquet"))
    assert capsys.readouterr().out == "out.parquet: 1 pairs\n"
    assert pq.read_table("out.parquet").to_pylist() == [made]
    assert [path.name for path in Path().glob(".out*")] == []


def test_the_published_data_set_is_read_from_the_hub(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its own repository and files, at a pinned commit."""
    pq.write_table(pa.Table.from_pylist(ROWS), sink := io.BytesIO())
    files = {"data/train-00000-of-00001.parquet": sink.getvalue(), "README.md": b"no rows"}
    with hub_server({"datasets/xinlai/Math-Step-DPO-10K": files}) as endpoint:
        for name, value in {
            "HF_HUB_CACHE": str(workspace.parent / "hub"), "HF_HUB_DISABLE_PROGRESS_BARS": True, "ENDPOINT": endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        }.items():  # fmt: skip
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        imported("data/none", revision=COMMIT)
        with pytest.raises(ValueError, match=r"revision: give the 40-digit commit hash"):
            imported("data/none", revision="main")
    assert exported() == ROWS
