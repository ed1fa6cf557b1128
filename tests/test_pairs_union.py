"""`pairs_union`: pairs of several runs together, ranked anew; or the part of a run that is of some problems."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from builders import pairs_union
from schemas import Pair, Prompt
from schemas.base import Row
from stores.checks import check_tables
from stores.parquet import texts_digest
from stores.paths import run_dir
from stores.stage import execute
from stores.store import Store
from stores.views import local_parts, run_files
from tests import stage_world as world

A, B, C = (world.prompt(world.problem(question)) for question in ("One?", "Two?", "Three?"))
OUTCOME = {"rewards": "drawn", "step_labels": "none", "gold": "none", "k": 1}
UNION = {"a": "first", "b": "second", "c": "none", "d": "none", "problems": "none"}


def pair(asked: Prompt, rank: int, chosen: int, rejected: int, **changes: Any) -> Pair:
    good, bad = world.sample(asked, chosen, f"yes {chosen}"), world.sample(asked, rejected, f"no {rejected}")
    row = {
        "prompt_id": asked.prompt_id, "rank": rank, "problem_id": asked.problem_id,
        "chosen_sample_id": good.sample_id, "chosen_start": 0, "chosen_end": 5, "chosen_eos": True,
        "rejected_sample_id": bad.sample_id, "rejected_start": 0, "rejected_end": 4, "rejected_eos": False,
    }  # fmt: skip
    return Pair.model_validate(row | changes)


def sides(row: dict[str, Any]) -> tuple[str, int, int, int]:
    """(prompt, rank, index of the chosen and of the rejected sample)."""
    return row["prompt_id"], row["rank"], int(row["chosen_sample_id"][-4:]), int(row["rejected_sample_id"][-4:])


def union(members: Mapping[str, Sequence[Row]], **changes: Any) -> list[tuple[str, int, int, int]]:
    """The union of these runs, built."""
    config = UNION | dict(zip("abcd", [*members, *["none"] * (4 - len(members))], strict=True)) | changes
    samples = {name: world.SAMPLES | {"n": 2 + i} for i, name in enumerate(members)}
    samples["drawn"] = world.SAMPLES
    checked = {"drawn": {"samples": "drawn", "prompts": "train", "problems": "train"}}
    world.write_params(
        samples=samples,
        predictions=checked,
        rewards={"drawn": {"predictions": "drawn", "problems": "train"}},
        problems=world.COMMON["problems"] | {"part": world.PROBLEMS},
        pairs_outcome={name: OUTCOME | {"samples": name} for name in members},
        pairs_union={"both": config},
    )
    for name, rows in members.items():
        world.write("pairs", name, rows)
    world.write("problems", "none", [])
    execute("pairs_union", "both", pairs_union.run)
    return [sides(row) for row in world.read("pairs", "both")]


def test_pairs_of_a_prompt_follow_their_runs_and_ranks(workspace: Path) -> None:
    found = union(
        {
            "first": [pair(A, 0, 1, 2), pair(A, 3, 3, 4), pair(C, 0, 1, 2)],
            "second": [pair(B, 5, 1, 2), pair(A, 0, 5, 6)],
        }
    )
    expected = [(A, 0, 1, 2), (A, 1, 3, 4), (A, 2, 5, 6), (B, 0, 1, 2), (C, 0, 1, 2)]
    assert found == sorted((p.prompt_id, *rest) for p, *rest in expected)
    assert world.rejects("pairs_union", "both") == []


def test_spans_and_endings_are_kept(workspace: Path) -> None:
    whole = pair(A, 0, 1, 2, chosen_start=2, chosen_end=4, chosen_eos=False, rejected_eos=True)
    union({"first": [whole]})
    assert world.read("pairs", "both") == [whole.model_dump()]


def test_all_four_runs_come_together(workspace: Path) -> None:
    found = union({f"run_{i}": [pair(A, 0, i, 9)] for i in range(4)})
    assert [(rank, chosen) for _, rank, chosen, _ in found] == [(0, 0), (1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize(("deduplicate", "ranks"), [(False, [0, 1, 2, 3]), (True, [0, 1])])
def test_a_repeated_pair_is_dropped_where_that_is_asked_for(workspace: Path, deduplicate, ranks) -> None:
    shorter = pair(A, 1, 1, 2, chosen_end=3)
    again = [pair(A, 0, 1, 2), shorter.model_copy(update={"rank": 1})]
    found = union({"first": [pair(A, 0, 1, 2), shorter], "second": again}, deduplicate=deduplicate)
    assert [rank for _, rank, *_ in found] == ranks
    detail = [(A.problem_id, None, "duplicate", f"rank {rank} of run second") for rank in (0, 1)]
    assert world.rejects("pairs_union", "both") == (detail if deduplicate else [])


def test_only_pairs_of_some_problems(workspace: Path) -> None:
    world.write("problems", "part", [world.problem("One?")])
    found = union({"first": [pair(A, 0, 1, 2), pair(A, 1, 3, 4), pair(B, 7, 1, 2)]}, problems="part")
    assert found == [(A.prompt_id, 0, 1, 2), (A.prompt_id, 1, 3, 4)]
    assert world.rejects("pairs_union", "both") == [(B.problem_id, None, "held_out", "rank 7 of run first")]


def test_a_run_named_twice_is_a_mistake(workspace: Path) -> None:
    with pytest.raises(ValueError, match=r"pairs_union.both: 'first' is named twice, .*; name each run once"):
        union({"first": [pair(A, 0, 1, 2)]}, c="first")


def test_texts_that_changed_behind_the_same_ids_change_the_bytes(workspace: Path) -> None:
    from stores.parquet import rows_to_table, write_table

    digests = []
    for text in ("old", "new", "new"):
        union({"first": [pair(A, 0, 1, 2)], "second": [pair(A, 0, 3, 4)]})
        rows = rows_to_table(Pair, [pair(A, 0, 3, 4)]).append_column("text", [[text]])
        write_table(run_dir("pairs", "second"), Pair, [rows], digest=["text"])
        execute("pairs_union", "both", pairs_union.run)
        digests.append(texts_digest(run_dir("pairs", "both")))
    assert digests[0] != digests[1] == digests[2] is not None


def test_the_store_finds_the_samples_of_every_member(workspace: Path) -> None:
    """Two runs of samples behind one run of pairs: texts resolve, and every check holds."""
    members = {"first": [pair(A, 0, 1, 2)], "second": [pair(A, 0, 3, 4)]}
    union(members)
    world.write("problems", "train", [world.problem("One?")])
    world.write("prompts", "train", [A])
    world.write("samples", "first", [world.sample(A, 1, "yes 1"), world.sample(A, 2, "no 2")])
    world.write("samples", "second", [world.sample(A, 3, "yes 3"), world.sample(A, 4, "no 4")])
    store = Store.open()
    query = "select rank, chosen, rejected, chosen_run, rejected_run from pair_texts where run = 'both' order by 1"
    assert store.sql(query).fetchall() == [
        (0, "yes 1", "no 2", "first", "first"),
        (1, "yes 3", "no 4", "second", "second"),
    ]
    assert list(check_tables(store.params, run_files(store.params, local_parts(workspace)))) == []
