"""What differs between two versions and why: one change of the small store, one reason."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas import TABLES
from schemas.ids import text_hash
from stores.diff import ROW_COLUMNS, Diff
from stores.diff_params import FunnelChange, ParamChange
from stores.store import Store
from tests.benchmarks.diff_world import expected as expected_counts
from tests.benchmarks.diff_world import write_version
from tests.diff_changes import (
    FIRST,
    ask_otherwise,
    draw_otherwise,
    dropped,
    fewer_samples,
    given,
    judge,
    lose_problem,
    margin,
    new_checker,
    new_extractor,
    new_gold,
    of_first,
    other_span,
    rank_again,
    retell,
    smaller_k,
    vanish,
)
from tests.diff_world import Reasons, World, question
from tests.small_store import training

SFT = {
    "model": "base", "steps_from": "none", "demos": "star", "watch": "none", "optimizer":
    {"lr": 0.01, "batch_size": 1, "steps": 1},
    "validation": {"prompts": "none", "problems": "none", "questions": "none", "labels": "none", "sampling": "explore"},
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The small store; tests change copies of it."""
    return World(tmp_path_factory.mktemp("built"))


@pytest.fixture
def world(built: World, tmp_path: Path) -> World:
    return built.branch(tmp_path / "b")


PAIRS: list[tuple[str, Callable[[World], None], Reasons]] = [
    ("problem", lose_problem, {("removed", "problem", "problems.train.limit 2 -> 1"): 2}),
    (
        "template", ask_otherwise(template="terse-9", messages=question("8?")),
        {("removed", "prompt", "template question_answer-1234 -> terse-9"): 4,
         ("added", "prompt", "template question_answer-1234 -> terse-9"): 4},
    ),
    (
        "rendering", ask_otherwise(rendering="chat"),
        {("removed", "prompt", "rendering text -> chat"): 4, ("added", "prompt", "rendering text -> chat"): 4},
    ),
    ("prefill", ask_otherwise(prefill=""), {("removed", "prompt", "prefill"): 4, ("added", "prompt", "prefill"): 4}),
    (
        "demonstrations", ask_otherwise(messages=question("another"), demo_sample_ids=["x"]),
        {("removed", "prompt", "demonstrations"): 4, ("added", "prompt", "demonstrations"): 4},
    ),
    ("seed", draw_otherwise(seed=1), {("removed", "sample", "seed 0 -> 1"): 4, ("added", "sample", "seed 0 -> 1"): 4}),
    (
        "temperature", draw_otherwise(temperature=0.7, top_p=0.9),
        {("removed", "sample", "temperature 1.0 -> 0.7; top_p 1.0 -> 0.9"): 4,
         ("added", "sample", "temperature 1.0 -> 0.7; top_p 1.0 -> 0.9"): 4},
    ),
    (
        "model", draw_otherwise(model="m1", model_fingerprint="123456789"),
        {("removed", "sample", "model base abcdef01 -> m1 12345678"): 4,
         ("added", "sample", "model base abcdef01 -> m1 12345678"): 4},
    ),
    ("n", fewer_samples, {("removed", "sample", "samples.irpo_0.n 3 -> 2"): 2}),
    ("text", retell, {("changed", "text", "another text under the same id"): 1}),
    ("checker", judge(new_checker), {("removed", "verdict", "wrong -> correct: checker number 1 -> number 2"): 1}),
    ("gold answer", judge(new_gold), {("removed", "verdict", "wrong -> correct: gold answer"): 1}),
    (
        "extractor", judge(new_extractor),
        {("removed", "verdict", "wrong -> correct: extractor number 1 -> number 2"): 1},
    ),
    ("undecided", judge(lambda world: None, "undecided"), {("removed", "verdict", "wrong -> undecided"): 1}),
    (
        "ranked again", rank_again,
        {("removed", "verdict", "wrong -> correct: checker number 1 -> number 2"): 1,
         ("changed", "regrouped", "another sample: wrong -> correct: checker number 1 -> number 2"): 1},
    ),
    ("k", smaller_k, {("removed", "params", "k 2 -> 1"): 2}),
    ("cap", dropped("capped", "above 3 pairs, rank 0", max_pairs=3), {("removed", "params", "max_pairs none -> 3"): 1}),
    (
        "another draw of the same cap", dropped("capped", "above 3 pairs, rank 0"),
        {("removed", "rejected", "capped"): 1},
    ),
    (
        "cap of another pair", dropped("capped", "above 3 pairs, rank 1"),
        {("removed", "other", "no recorded cause"): 1},
    ),
    (
        "too long", dropped("over_long", "above 9 tokens, rank 0", max_tokens=9, margin=0.5),
        {("removed", "params", "max_tokens none -> 9"): 1},
    ),
    ("reject of the prompt", dropped("no_rejected", ""), {("removed", "rejected", "no_rejected"): 1}),
    ("threshold", margin, {("removed", "params", "margin 1.0 -> 0.5"): 1}),
    ("span", other_span, {("changed", "other", "no recorded cause"): 1}),
    ("nothing that is recorded", vanish, {("removed", "other", "no recorded cause"): 1}),
]  # fmt: skip


QUICK = ("problem", "seed", "text", "ranked again", "k", "cap")
"""The quick tier's cases; each takes a third of a second."""


@pytest.mark.parametrize(("change", "expected"), given(PAIRS, QUICK))
def test_a_change_has_its_reason(world: World, change: Callable[[World], None], expected: Reasons) -> None:
    change(world)
    assert world.reasons() == expected


BACKWARDS = [case for case in PAIRS if case[0] in ("problem", "n", "checker", "ranked again", "k", "cap")]


@pytest.mark.parametrize(("change", "expected"), given(BACKWARDS))
def test_backwards_the_same_rows_come_that_went(
    world: World, change: Callable[[World], None], expected: Reasons
) -> None:
    change(world)
    world.a, world.b = world.b, world.a
    turned = {"added": "removed", "removed": "added", "changed": "changed"}
    wanted: dict[tuple[str, str], int] = {}
    for (kind, reason, _), count in expected.items():
        wanted[turned[kind], reason] = wanted.get((turned[kind], reason), 0) + count
    assert {(kind, reason): count for (kind, reason, _), count in world.reasons().items()} == wanted


def test_a_pair_without_another_id_says_which_text_is_another(world: World) -> None:
    retell(world)
    assert world.whats() == ["rejected text"]


def test_what_is_said_of_a_changed_pair(world: World) -> None:
    other_span(world)
    assert world.whats() == ["chosen_start 2 -> 3"]


@pytest.mark.slow
def test_a_text_outside_the_span_changes_no_pair(world: World) -> None:
    def first_letter(row):
        text = "Ä" + row.text[1:]
        return row.model_copy(update={"text": text, "text_hash": text_hash(text)}) if row.index == 0 else row

    world.edit("samples", "irpo_0", first_letter)
    assert world.reasons() == {}
    assert world.reasons("demos", runs=["star"]) == {("changed", "text", "another text under the same id"): 2}


@pytest.mark.slow
def test_pairs_that_are_repeated_are_counted(world: World) -> None:
    (first, *rest) = world.rows("pairs", "irpo_0")
    world.write("pairs", "irpo_0", [first, *rest, *(first.model_copy(update={"rank": rank}) for rank in (7, 8))])
    with world.diff() as found:
        assert [(c.change, c.rows) for c in found.counts] == [("added", 2)]


def test_a_run_of_one_version_is_one_reason(world: World) -> None:
    world.params(lambda p: p["pairs_outcome"].update(irpo_1=p["pairs_outcome"].pop("irpo_0")))
    world.params(lambda p: p.update(reference={}))
    world.write("pairs", "irpo_1", world.rows("pairs", "irpo_0"))
    assert world.reasons() == {("added", "run", "new run"): 4, ("removed", "run", "run is gone"): 4}
    with world.diff() as found:
        assert [tuple(run) for run in found.runs] == [
            ("pairs", "irpo_0", "removed", 4, None), ("pairs", "irpo_1", "added", None, 4),
        ]  # fmt: skip
        assert found.params == [
            ParamChange("pairs_outcome", "irpo_0", "", "a run", None),
            ParamChange("pairs_outcome", "irpo_1", "", None, "a run"),
            ParamChange("reference", "irpo_0", "", "a run", None),
        ]


def test_a_run_that_is_not_built_says_where(world: World) -> None:
    (world.b / "data/pairs/run=irpo_0/part-00000.parquet").unlink()
    assert world.reasons() == {("removed", "run", "not built in new"): 4}


def test_params_and_the_funnel_are_compared_whole(world: World) -> None:
    def change(params) -> None:
        params.update(seed=1)
        params["sampling"]["explore"]["temperature"] = 0.7
        params["step_labels"]["checked"]["limit"] = 3

    world.params(change)
    smaller_k(world)
    with world.diff() as found:
        assert found.params == [
            ParamChange("seed", "", "seed", "0", "1"),
            ParamChange("sampling", "explore", "temperature", "1.0", "0.7"),
            ParamChange("step_labels", "checked", "limit", None, "3"),
            ParamChange("pairs_outcome", "irpo_0", "k", "2", "1"),
        ]
        assert found.funnel == [FunnelChange("pairs_outcome", "irpo_0", "pairs", "kept", 4, 2)]


@pytest.mark.slow
def test_a_new_reason_of_the_funnel_was_0(world: World) -> None:
    dropped("over_long", "rank 0")(world)
    with world.diff() as found:
        assert found.funnel == [
            FunnelChange("pairs_outcome", "irpo_0", "pairs", "kept", 4, 3),
            FunnelChange("pairs_outcome", "irpo_0", None, "no_rejected", 1, 0),
            FunnelChange("pairs_outcome", "irpo_0", None, "over_long", 0, 1),
        ]


@pytest.mark.slow
def test_training_names_the_inputs_that_differ(tmp_path: Path, built: World) -> None:
    """Its rows are means over batches: no id says which row of the input made which."""
    before = built.branch(tmp_path / "a")
    before.params(lambda p: p.update(sft={"m0": SFT}))
    before.write("training", "m0", training())
    after = before.branch(tmp_path / "b", before.b)
    after.update("training", "m0", lambda row: row.step == 1, loss=0.25)
    assert after.reasons("training") == {("changed", "other", "no recorded cause"): 1}
    after.drop("demos", "star", of_first)
    assert after.reasons("training") == {("changed", "input", "demos star"): 1}
    after.params(lambda p: p["sft"]["m0"]["optimizer"].update(lr=0.1))
    assert after.reasons("training") == {("changed", "params", "optimizer.lr 0.01 -> 0.1"): 1}


def test_rows_have_ids_and_places(world: World) -> None:
    vanish(world)
    world.a, world.b = world.b, world.a
    with world.diff() as found:
        result = found.rows()
        assert tuple(result.columns) == ROW_COLUMNS
        (row,) = result.to_arrow().to_pylist()
    (gone,) = [p for p in world.rows("pairs", "irpo_0") if of_first(p) and p.rank == 0]
    assert row == {
        "table": "pairs", "run": "irpo_0", "change": "added", "reason": "other", "detail": "no recorded cause",
        "what": None, "problem_id": FIRST, "prompt_id": gone.prompt_id, "sample_id": gone.chosen_sample_id,
        "rejected_sample_id": gone.rejected_sample_id, "place": "rank 0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tables", "runs", "message"),
    [
        (["pair"], [], "no table 'pair' (have problems, "),
        (["pairs"], ["irpo_9"], "no run 'irpo_9' of pairs in either version (have irpo_0)"),
    ],
)
def test_what_neither_version_has_is_an_error(world: World, tables: list[str], runs: list[str], message: str) -> None:
    with pytest.raises(ValueError) as error:
        world.diff(*tables, runs=runs)
    assert str(error.value).startswith(message)


def test_a_version_does_not_differ_from_itself(built: World) -> None:
    with Diff(Store.open(built.a), Store.open(built.a), tuple(TABLES)) as found:
        assert (found.counts, found.params, found.funnel, found.rows().fetchall()) == ([], [], [], [])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_added_less_removed_is_the_difference_of_counts(built: World, tmp_path: Path, seed: int) -> None:
    """Rows of all tables come, go and change at random, in both versions."""
    generator = random.Random(seed)
    before = built.branch(tmp_path / "a")
    after = built.branch(tmp_path / "b")
    for version in (before, after):
        for (table, run), rows in built.tables.items():
            version.write(table, run, [row for row in rows if generator.random() < 0.7])
        version.update("rewards", "irpo_0", lambda r: generator.random() < 0.3, checker_version="7")
        version.update("pairs", "irpo_0", lambda r: generator.random() < 0.3, chosen_eos=False)
    with Diff(Store.open(before.b), Store.open(after.b), tuple(TABLES)) as found:
        balance = {(run.table, run.run): (run.new_rows or 0) - (run.old_rows or 0) for run in found.runs}
        for count in found.counts:
            sign = {"added": 1, "removed": -1, "changed": 0}[count.change]
            balance[count.table, count.run] -= sign * count.rows
        assert set(balance.values()) == {0}
        assert len(found.rows().fetchall()) == sum(count.rows for count in found.counts)


def test_reasons_of_a_larger_world_are_what_it_did(tmp_path: Path) -> None:
    rows = 5_000
    for name in ("old", "new"):
        write_version(tmp_path / name, rows, second=name == "new")
    with Diff(Store.open(tmp_path / "old"), Store.open(tmp_path / "new")) as found:
        counts = {f"{count.change} {count.reason}": count.rows for count in found.counts}
    assert counts == expected_counts(rows)
    assert len(counts) == 5
