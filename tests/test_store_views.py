"""The store's views: every table over all runs of params, and the joined views that follow the graph of runs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from schemas import Pair, Sample
from schemas.params import parse_params
from stores.parquet import PART
from stores.paths import run_dir
from stores.sources import run_sources
from stores.store import Store
from tests import small_store
from tests.small_store import PARAMS, build, pair, pair_id, prompts, rows, sample, write


@pytest.fixture
def store(workspace: Path) -> Store:
    build(workspace)
    return Store.open()


def reopen(change: Callable[[dict[str, Any]], object]) -> Store:
    """The store of the working directory after a change of its params."""
    params = yaml.safe_load(yaml.safe_dump(PARAMS))
    change(params)
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return Store.open()


@pytest.mark.parametrize("guard", [False, True], ids=["fast", "guarded"])
def test_every_table_has_its_columns_and_its_runs(workspace: Path, guard: bool) -> None:
    expected = build(workspace)
    store = Store.open(guard=guard)
    for (table, run), content in expected.items():
        got = store.sql(f'select * from "{table}" where run = $run', {"run": run}).to_arrow().to_pylist()
        for row in got:
            row.pop("pair_id", None)
        by_key = {tuple(str(row[c]) for c in type(content[0]).key): row for row in got}
        assert len(got) == len(content)
        for row in content:
            values = row.model_dump()
            assert by_key[tuple(str(values[c]) for c in type(row).key)] == values | {"run": run}


def test_tables_without_runs_are_empty_and_rejects_name_their_stage(store: Store) -> None:
    assert store.sql("select count(*), min(run) from training").fetchall() == [(0, None)]
    got = store.sql("select stage, run, reason from rejects order by all").fetchall()
    assert got == [
        ("pairs_outcome", "irpo_0", "no_rejected"),
        ("problems", "train", "duplicate"),
        ("problems", "train", "empty"),
    ]


def test_runs_come_from_params_not_from_the_directory(store: Store, workspace: Path) -> None:
    write(workspace, "samples", "left_behind", rows()["samples", "irpo_0"])
    write(workspace, "samples", "none", [])
    got = {(r.run, r.section, r.built, r.rows) for r in Store.open().runs() if r.table == "samples"}
    assert got == {
        ("irpo_0", "samples", True, 6),
        ("irpo_1", "samples", False, None),
        ("gold", "samples_gold", True, 2),
    }
    assert Store.open().sql("select distinct run from samples order by 1").fetchall() == [("gold",), ("irpo_0",)]


def test_pair_texts_are_the_spans_as_python_cuts_them(workspace: Path) -> None:
    build(workspace)
    asked, text = prompts()[0], "a🐈‍⬛e\u0301👍🏽\u200dZ\n\U0001f468\u200d\U0001f469 ß"
    whole, other = sample(asked, 0, text), sample(asked, 1, "x" * 20)
    spans = [(start, end) for end in range(1, len(text) + 1) for start in range(end)]
    pairs = [
        pair(asked, rank, whole, other).model_copy(
            update={"chosen_start": start, "chosen_end": end, "rejected_start": end}
        )
        for rank, (start, end) in enumerate(spans)
    ]
    write(workspace, "samples", "irpo_0", [whole, other])
    write(workspace, "pairs", "irpo_0", pairs)
    got = Store.open().sql("select pair_id, chosen, rejected from pair_texts order by rank").fetchall()
    assert got == [(pair_id(p), text[s:e], other.text[e:]) for p, (s, e) in zip(pairs, spans, strict=True)]


def test_pair_texts_resolve_prompt_and_both_samples(store: Store) -> None:
    got = {row["pair_id"]: row for row in store.sql("select * from pair_texts").to_arrow().to_pylist()}
    prompt = {p.prompt_id: p for p in prompts()}
    texts = {s.sample_id: s.text for run in ("irpo_0", "gold") for s in rows()["samples", run] if isinstance(s, Sample)}
    for p in rows()["pairs", "irpo_0"]:
        assert isinstance(p, Pair)
        row = got.pop(pair_id(p))
        asked = prompt[p.prompt_id]
        assert (row["messages"], row["prefill"], row["rendering"]) == (
            [m.model_dump() for m in asked.messages], asked.prefill, asked.rendering
        )  # fmt: skip
        assert row["chosen"] == texts[p.chosen_sample_id][p.chosen_start : p.chosen_end]
        assert row["rejected"] == texts[p.rejected_sample_id]
        assert (row["chosen_run"], row["rejected_run"]) == ("gold" if p.rank else "irpo_0", "irpo_0")
    assert not got


def test_a_run_with_the_same_ids_that_is_no_input_is_not_joined(workspace: Path) -> None:
    build(workspace)
    before = Store.open().sql("select * from pair_texts order by all").fetchall()
    same_ids = [s.model_copy(update={"text": "another text"}) for s in rows()["samples", "irpo_0"]]
    write(workspace, "samples", "irpo_1", same_ids)
    after = Store.open()
    assert after.sql("select count(*) from samples where text = 'another text'").fetchall() == [(6,)]
    assert after.sql("select * from pair_texts order by all").fetchall() == before


def test_a_prompt_that_two_source_runs_share_is_joined_once(workspace: Path) -> None:
    build(workspace)

    def import_gold(params: dict[str, Any]) -> None:
        params["prompts"]["also_train"] = params["prompts"]["train"]
        del params["samples_gold"]["gold"]
        params["samples_import"]["gold"] = {
            "problems": "train", "prompts": "also_train", "path": "x", "columns": {"text": "t", "question": "q"},
            "model": "none",
        }  # fmt: skip

    write(workspace, "prompts", "also_train", rows()["prompts", "train"])
    store = reopen(import_gold)
    behind = {s.input_run for s in run_sources(store.params) if s[:3] == ("pairs", "irpo_0", "prompts")}
    assert behind == {"train", "also_train"}
    assert store.sql("select count(*), count(distinct pair_id), min(prompt_run) from pair_texts").fetchall() == [
        (4, 4, "also_train")
    ]
    assert store.sql("select count(*) from lineage").fetchall() == [(8,)]


def test_demo_texts(store: Store) -> None:
    got = store.sql("select run, sample_run, text, finish_reason from demo_texts order by 1, 3").fetchall()
    first = small_store.TEXTS[0][0]
    assert got == [
        ("gold", "gold", "It is 7.\n#### 7", "stop"),
        ("gold", "gold", "It is 8.\n#### 8", "stop"),
        ("star", "irpo_0", first, "stop"),
        ("star", "irpo_0", first, "stop"),
    ]


def test_funnel_counts_what_was_kept_and_why_the_rest_was_not(store: Store) -> None:
    got = store.sql("select * from funnel where stage in ('problems', 'pairs_outcome')").fetchall()
    assert got == [
        ("pairs_outcome", "irpo_0", "pairs", "kept", 4),
        ("pairs_outcome", "irpo_0", None, "no_rejected", 1),
        ("problems", "train", "answers", "kept", 2),
        ("problems", "train", "problems", "kept", 2),
        ("problems", "train", "solutions", "kept", 2),
        ("problems", "train", None, "duplicate", 1),
        ("problems", "train", None, "empty", 1),
    ]


def test_lineage_says_who_drew_each_side_and_the_verdict(store: Store) -> None:
    columns = "rank, side, sample_run, model, model_fingerprint, seed, temperature, template, extracted, verdict"
    first = prompts()[0].prompt_id
    got = store.sql(f"select {columns} from lineage where prompt_id = ? order by 1, 2", [first]).fetchall()
    drawn = ("base", "abcdef0123456789", 0, 1.0, "question_answer-1234")
    assert got == [
        (0, "chosen", "irpo_0", *drawn, "8", "correct"),
        (0, "rejected", "irpo_0", *drawn, "4", "wrong"),
        (1, "chosen", "gold", "gold", "9" * 16, None, None, "question_answer-1234", None, None),
        (1, "rejected", "irpo_0", *drawn, None, "no_answer"),
    ]


def test_edges_between_runs_and_settings_are_views(store: Store) -> None:
    edges = store.sql(
        "select slot, input_table, input_run from run_inputs where \"table\" = 'pairs' order by all"
    ).fetchall()
    assert edges == [("gold", "samples", "gold"), ("rewards", "rewards", "irpo_0"), ("samples", "samples", "irpo_0")]
    setting = store.sql(
        "select value from params where section = 'samples' and run = 'irpo_0' and key = 'n'"
    ).fetchall()
    assert setting == [("3",)]


@pytest.mark.parametrize(
    ("table", "run", "target", "expected"),
    [
        ("pairs", "p", "samples", ["a", "g"]),
        ("pairs", "p", "prompts", ["train"]),
        ("pairs", "p", "rewards", ["a"]),
        ("rewards", "a", "predictions", ["a"]),
        ("demos", "warm", "prompts", ["train"]),
        ("rewards", "m1", "predictions", ["m1"]),
        ("predictions", "m1", "samples", ["m1"]),
        ("samples", "m1", "prompts", ["test"]),
        ("answers", "train", "problems", ["train"]),
        ("reference_logprobs", "p", "samples", ["a", "g"]),
        ("samples", "a", "demos", []),
        ("pairs", "both", "samples", ["a", "g", "b"]),
        ("pairs", "both", "prompts", ["train"]),
        ("pairs", "both", "problems", ["train"]),
        ("pairs", "nested", "samples", ["b", "a", "g"]),
        ("pairs", "part", "problems", ["test"]),
        ("models", "m2", "prompts", ["test"]),
        ("models", "m3", "prompts", ["train"]),
    ],
)
def test_sources_are_the_nearest_runs_along_the_inputs(table: str, run: str, target: str, expected: list[str]) -> None:
    sources = run_sources(parse_params(GRAPH))
    assert [s.input_run for s in sources if s[:3] == (table, run, target)] == expected


GRAPH = """
seed: 0
sampling: {s: {temperature: 1, max_new_tokens: 8}}
problems: &problems
  train: {source: arithmetic, path: data/none, split: train, limit: 2, steps: [1, 2]}
  test: {source: arithmetic, path: data/none, split: test, limit: 2, steps: [1, 2]}
models: {base: {path: data/none, vocabulary: none, script: ["8"]}}
prompts:
  train: {problems: train, template: t, rendering: text, demo_samples: none, demo_problems: none}
  test: {problems: test, template: t, rendering: text, demo_samples: none, demo_problems: none}
samples:
  a: {prompts: train, model: m1, engine: scripted, sampling: s, n: 3}
  b: {prompts: train, model: m1, engine: scripted, sampling: s, n: 4}
samples_gold: {g: {problems: train, ending: "", model: base}}
samples_import: {}
predictions:
  a: {samples: a, prompts: train, problems: train}
  b: {samples: b, prompts: train, problems: train}
rewards:
  a: {predictions: a, problems: train}
  b: {predictions: b, problems: train}
step_labels: {}
prompts_step: {}
samples_corrections: {}
demos_gold: {warm: {samples: g, prompts: train}}
demos_correct: {}
demos_consistent: {}
demos_union: {}
pairs_contrast: {}
predictions_import: {}
consistency: {}
votes: {}
rewards_votes: {}
pairs_outcome:
  p: {samples: a, rewards: a, step_labels: none, gold: g, k: 1}
  q: {samples: b, rewards: b, step_labels: none, gold: none, k: 1}
pairs_union:
  both: {a: p, b: q, c: none, d: none, problems: none}
  nested: {a: part, b: q, c: none, d: none, problems: none}
  part: {a: p, b: none, c: none, d: none, problems: test}
pairs_step: {}
quality: {}
ppo: {}
reward_model: {}
scores: {}
export: {}
pairs_import: {}
reference: {p: {pairs: p, model: m1}}
sft:
  m1:
    model: base
    demos: warm
    watch: none
    steps_from: none
    optimizer: {lr: 0.1, batch_size: 1, steps: 1}
    validation: {prompts: test, problems: test, questions: none, labels: none, sampling: s}
preference:
  m2: &training
    model: m1
    pairs: part
    reference: p
    loss: dpo
    steps_from: none
    optimizer: {lr: 0.1, batch_size: 1, steps: 1}
    validation: {prompts: test, problems: test, questions: none, labels: none, sampling: s}
  m3:
    <<: *training
    steps_from: m2
    optimizer: {lr: 0.1, batch_size: 1}
    validation: {prompts: none, problems: none, questions: none, labels: none, sampling: s}
evaluate: {m1: {model: m1, prompts: test, problems: test, engine: scripted, greedy: s, explore: s, k: 0}}
report: {}
ppo: {}
reward_model: {}
scores: {}
export: {}
"""


@pytest.mark.parametrize("guard", [False, True], ids=["fast", "guarded"])
def test_columns_that_an_older_file_lacks_are_null(workspace: Path, guard: bool) -> None:
    build(workspace)
    part = run_dir("prompts", "train") / PART
    older = pq.read_table(part).drop_columns(["demo_sample_ids"])
    pq.write_table(older, part)
    got = Store.open(guard=guard).sql("select demo_sample_ids, prefill, run from prompts").fetchall()
    assert got == [(None, " Let us see.", "train")] * 2


def test_a_result_has_columns_and_can_be_read_twice(store: Store) -> None:
    result = store.sql("select rank, count(*) as n, sum(rank) as total from pairs group by rank order by rank")
    assert result.columns == ["rank", "n", "total"]
    assert result.fetchall() == result.fetchall() == [(0, 2, 0), (1, 2, 2)]
    assert result.to_arrow().column_names == result.columns


@pytest.mark.parametrize("params", [{"run": "gold"}, ["gold"]], ids=["named", "positional"])
def test_parameters_are_values(store: Store, params: dict[str, str] | Sequence[str]) -> None:
    mark = "$run" if isinstance(params, dict) else "?"
    assert store.sql(f"select count(*) from samples where run = {mark}", params).fetchall() == [(2,)]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select foo from pairs", 'line 1, column 8: Binder Error: Referenced column "foo" not found'),
        ("select\n 'é🐈',\n  foo from pairs", 'line 3, column 3: Binder Error: Referenced column "foo" not found'),
        ("select * from pair", "line 1, column 15: Catalog Error: Table with name pair does not exist! Did you mean"),
        ("selec 1", 'line 1, column 1: Parser Error: syntax error at or near "selec"'),
        (" ", "the query is empty"),
    ],
)
def test_an_sql_error_is_one_line_that_points_at_the_place(store: Store, query: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        store.sql(query)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_error_while_the_query_runs_is_one_line_too(store: Store) -> None:
    result = store.sql("select text::int from samples")
    with pytest.raises(ValueError, match="Conversion Error: Could not convert string"):
        result.fetchall()


@pytest.mark.parametrize("guard", [False, True], ids=["fast", "guarded"])
def test_a_corrupt_file_is_named_with_the_remedy_and_other_tables_still_answer(workspace: Path, guard: bool) -> None:
    build(workspace)
    (run_dir("rewards", "irpo_0") / PART).write_bytes(b"PAR1 no table PAR1")
    store = Store.open(guard=guard)
    assert store.sql("select count(*) from samples").fetchall() == [(8,)]
    with pytest.raises(ValueError, match=r"rewards/run=irpo_0/part-00000.parquet: not a readable .*dvc checkout"):
        store.sql("select * from rewards")


def test_without_params_it_says_where_to_run(workspace: Path) -> None:
    with pytest.raises(ValueError, match=r"params.yaml: no such file; run in the project's directory"):
        Store.open()


def test_describe(store: Store) -> None:
    found = store.describe("demos")
    assert found.grain == "One row per fine-tuning example: a prompt and a sample to imitate."
    assert found.columns[0] == ("prompt_id", "varchar", "the prompt")
    assert [(r.run, r.rows) for r in found.runs] == [("gold", 2), ("star", 2)]
    assert found.example is not None
    assert found.example["run"] == "gold"
    assert store.describe("funnel").grain.startswith("One row per (stage, run, table or reason)")
    assert store.describe("training").example is None
    with pytest.raises(ValueError, match=r"no table or view 'demo' \(did you mean 'demos'\?\)"):
        store.describe("demo")


def test_every_column_of_every_view_has_a_meaning_or_speaks_for_itself(store: Store) -> None:
    plain = {"chosen", "rejected", "side", "n", "key", "value", "slot"}
    plain |= {"table", "section", "rows", "bytes", "input_table", "input_run", "sample_prompt_id"}
    for view in ("pair_texts", "demo_texts", "lineage", "funnel", "runs", "params", "run_inputs", "run_sources"):
        silent = {name for name, _, meaning in store.describe(view).columns if not meaning}
        assert silent <= plain, view
