"""Pairs by the paper's rule: given samples and verdicts, expect pairs and rejects."""

import itertools
from math import lcm

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.pairs_outcome import COLUMNS, SAMPLE_COLUMNS, build
from builders.streams import RowStream, whole_groups
from schemas.ids import text_hash
from schemas.sections_pairs import OutcomePairsRun

PROBLEM = {name: text_hash(name) for name in "abcdef"}


def prompt(name: str) -> str:
    return f"{PROBLEM[name]}-00000000"


def samples_of(rewards: dict[str, str], texts: dict[tuple[str, int], str] | None = None, tokens: int = 10):
    """A prompt's verdicts as a string: + correct, - wrong, ? undecided, h half a point."""
    values = {"+": 1.0, "-": 0.0, "?": np.nan, "h": 0.5}
    rows = [
        (f"{prompt(name)}-cafecafe-{i:04d}", prompt(name), values[v], (texts or {}).get((name, i), f"{name}{i}"))
        for name in sorted(rewards, key=prompt)
        for i, v in enumerate(rewards[name])
    ]
    table = pa.table({
        "sample_id": [r[0] for r in rows],
        "text_hash": [text_hash(r[3]) for r in rows],
        "n_chars": pa.array([len(r[3]) for r in rows], pa.int32()),
        "n_tokens": pa.array([tokens] * len(rows), pa.int32()),
        "finish_reason": ["stop"] * len(rows),
        "prompt_id": [r[1] for r in rows],
        "n_prompt_tokens": pa.array([5] * len(rows), pa.int32()),
    }).select(SAMPLE_COLUMNS)  # fmt: skip
    return table, np.array([r[2] for r in rows])


def gold_of(*names: str, tokens: int | None = 8) -> pa.Table:
    ids = sorted(f"{PROBLEM[name]}-90d90d90-0000" for name in names)
    return pa.table({
        "sample_id": pa.array(ids, pa.string()),
        "text_hash": pa.array([text_hash(i) for i in ids], pa.string()),
        "n_chars": pa.array([30] * len(ids), pa.int32()),
        "n_tokens": pa.array([tokens] * len(ids), pa.int32()),
        "finish_reason": pa.array(["stop"] * len(ids), pa.string()),
    }).select(COLUMNS)  # fmt: skip


def config(**changes) -> OutcomePairsRun:
    return OutcomePairsRun.model_validate(
        {"samples": "s", "rewards": "r", "step_labels": "none", "gold": "none", "k": 4} | changes
    )


def sides(built, name: str) -> list[tuple[int, object, object]]:
    """(rank, chosen index, rejected index) of one prompt; `gold` for a gold solution."""
    rows = [r for r in built.pairs.to_pylist() if r["prompt_id"] == prompt(name)]
    short = lambda i: "gold" if "-90d90d90-" in i else int(i[-4:])  # noqa: E731
    return [(r["rank"], short(r["chosen_sample_id"]), short(r["rejected_sample_id"])) for r in rows]


def reasons(built) -> dict[tuple[str, str], int]:
    names = {v: k for k, v in PROBLEM.items()}
    found: dict[tuple[str, str], int] = {}
    for row in built.rejects.to_pylist():
        key = names[row["problem_id"]], row["reason"]
        found[key] = found.get(key, 0) + 1
    return found


ROUND_ROBIN = [
    # verdicts, K, expected (rank, winner, loser)
    ("+-", 1, [(0, 0, 1)]),
    ("+--", 4, [(0, 0, 1), (1, 0, 2), (2, 0, 1), (3, 0, 2)]),
    ("++---", 4, [(0, 0, 2), (1, 1, 3), (2, 0, 4), (3, 1, 2)]),
    ("-+-+", 3, [(0, 1, 0), (1, 3, 2), (2, 1, 0)]),
    ("?+-", 2, [(0, 1, 2), (1, 1, 2)]),
    ("++", 4, []),
    ("--", 4, []),
    ("??", 4, []),
]


@pytest.mark.parametrize(("verdicts", "k", "expected"), ROUND_ROBIN)
def test_both_lists_are_walked_at_once_and_started_over(verdicts, k, expected):
    built = build(*samples_of({"a": verdicts}), gold_of(), config(k=k))
    assert sides(built, "a") == expected


def test_prompts_keep_apart_and_one_sided_ones_are_rejected_with_their_reason():
    built = build(*samples_of({"a": "+-", "b": "++", "c": "--", "d": "-?+", "e": "?"}), gold_of(), config(k=1))
    assert [sides(built, n) for n in "abcde"] == [[(0, 0, 1)], [], [], [(0, 2, 0)], []]
    assert reasons(built) == {
        ("b", "no_rejected"): 1, ("c", "no_chosen"): 1, ("d", "undecided"): 1, ("e", "undecided"): 2,
    }  # fmt: skip


def test_gold_joins_the_winners_after_them():
    built = build(*samples_of({"a": "+--", "b": "--", "c": "+-"}), gold_of("a", "b", "d"), config(k=3))
    assert sides(built, "a") == [(0, 0, 1), (1, "gold", 2), (2, 0, 1)]
    assert sides(built, "b") == [(0, "gold", 0), (1, "gold", 1), (2, "gold", 0)]
    assert sides(built, "c") == [(0, 0, 1), (1, 0, 1), (2, 0, 1)]


def test_spin_prefers_gold_to_every_sample_whatever_its_verdict():
    built = build(
        *samples_of({"a": "+-?", "b": "++", "c": "+-"}), gold_of("a", "b"), config(k=4, gold="g", chosen="gold")
    )
    assert sides(built, "a") == [(0, "gold", 0), (1, "gold", 1), (2, "gold", 2), (3, "gold", 0)]
    assert sides(built, "b") == [(0, "gold", 0), (1, "gold", 1), (2, "gold", 0), (3, "gold", 1)]
    assert sides(built, "c") == []
    assert reasons(built) == {("c", "no_chosen"): 1}


def test_spin_needs_gold_solutions():
    with pytest.raises(ValueError, match="`chosen: gold` needs gold solutions; name a run of samples_gold"):
        config(chosen="gold")


def test_without_repeats_pairs_end_at_the_least_common_multiple():
    built = build(*samples_of({"a": "++---", "b": "+-"}), gold_of(), config(k=10, repeat_pairs=False))
    assert (len(sides(built, "a")), len(sides(built, "b"))) == (6, 1)


def test_over_long_pairs_are_rejected_by_prompt_and_completion():
    table, reward = samples_of({"a": "+--"})
    long = table.set_column(3, "n_tokens", pa.array([10, 20, 10], pa.int32()))
    built = build(long, reward, gold_of(), config(k=2, max_tokens=20))
    assert sides(built, "a") == [(1, 0, 2)]
    assert reasons(built) == {("a", "over_long"): 1}


def test_a_limit_needs_token_counts():
    with pytest.raises(ValueError, match="max_tokens needs token counts: name a `model`"):
        build(*samples_of({"a": "-"}), gold_of("a", tokens=None), config(max_tokens=20))


def test_a_margin_separates_graded_rewards():
    built = build(*samples_of({"a": "h+-"}), gold_of(), config(k=4, margin=0.5))
    assert sides(built, "a") == [(1, 1, 2), (3, 1, 2)], "0.5 against itself differs by nothing"
    assert sides(build(*samples_of({"a": "h+-"}), gold_of(), config(k=1, margin=1.0)), "a") == [(0, 1, 2)]


def test_repeated_texts_count_once_where_asked():
    table, reward = samples_of({"a": "++-"}, texts={("a", 0): "same", ("a", 1): "same"})
    assert sides(build(table, reward, gold_of(), config(k=2)), "a") == [(0, 0, 2), (1, 1, 2)]
    assert sides(build(table, reward, gold_of(), config(k=2, deduplicate=True)), "a") == [(0, 0, 2), (1, 0, 2)]


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.text("+-?", min_size=1, max_size=9), min_size=1), st.integers(1, 9)
)
def test_every_prompt_agrees_with_the_rule_written_as_a_loop(verdicts, k):
    built = build(*samples_of(verdicts), gold_of(), config(k=k))
    for name, string in verdicts.items():
        good = [i for i, v in enumerate(string) if v == "+"]
        bad = [i for i, v in enumerate(string) if v == "-"]
        expected = (
            []
            if not good or not bad
            else list(zip(range(k), itertools.cycle(good), itertools.cycle(bad), strict=False))
        )
        assert sides(built, name) == expected
        assert len(set(expected)) <= lcm(len(good) or 1, len(bad) or 1) * k


def test_streams_keep_prompts_whole_and_rows_in_order():
    table, _ = samples_of({"a": "+-+", "b": "-", "c": "+-"})
    pieces = [table.slice(i, 2) for i in range(0, len(table), 2)]
    whole = list(whole_groups(pieces, "prompt_id"))
    assert pa.concat_tables(whole).equals(table)
    seen = [set(w["prompt_id"].to_pylist()) for w in whole]
    assert all(not a & b for a, b in itertools.combinations(seen, 2))
    stream = RowStream(pieces)
    assert [len(stream.take(n)) for n in (1, 4, 9, 1)] == [1, 4, 1, 0]
