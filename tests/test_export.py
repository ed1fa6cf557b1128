"""Releases: what `datasets` reads of them equals what the store holds, whatever the format; test problems stay out."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from builders.exporting.card import stamp
from builders.exporting.columns import CHAT, columns, schema
from builders.exporting.shards import CHUNKING, ROW_GROUP_BYTES, write_shards
from builders.rendering import render_text
from schemas.sections_export import CONFIGS
from stores.store import Store
from tests import export_world as world

TRAIN = sorted(problem.problem_id for problem in world.problems()[:2])
Load = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with every config, in `data/export/everything` of its workspace."""
    root = tmp_path_factory.mktemp("everything")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(root):
        patch.setenv("PAIRWRIGHT_LEDGER", str(root / "ledger"))
        world.build()
        return root / world.release()


@pytest.fixture
def built(workspace: Path) -> None:
    """A workspace where a test exports what it likes."""
    world.build()


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """All rows of a config as `datasets.load_dataset` reads them, without a network."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()

    def rows(directory: Path, config: str | None = None, **more: Any) -> list[dict[str, Any]]:
        cache = str(tmp_path / "hf")
        return list(datasets.load_dataset(str(directory), config, cache_dir=cache, split="train", **more))

    yield rows
    datasets.enable_progress_bars()


def stored(release: Path, query: str) -> list[dict[str, Any]]:
    """What the store says that a release was made from."""
    with Store.open(release.parents[2]) as store:
        return store.sql(query).to_arrow().to_pylist()


def same(row: dict[str, Any], own: dict[str, Any]) -> None:
    shared = [name for name in own if name in row]
    assert {name: row[name] for name in shared} == {name: own[name] for name in shared}


@pytest.mark.parametrize(("config", "run"), [("pairs", "whole"), ("step_pairs", "step")])
def test_pairs_are_those_of_the_store_without_test_problems(
    load: Load, config: str, run: str, everything: Path
) -> None:
    rows = load(everything, config)
    known = stored(everything, f"select * from pair_texts where run = '{run}' order by prompt_id, rank")
    own = [row for row in known if row["problem_id"] in TRAIN]
    assert (len(known), len(own), len(rows)) == (3, 2, 2)
    for row, pair in zip(rows, own, strict=True):
        same(row, pair)
        assert row["prompt"] == "".join(m["content"] for m in pair["messages"]) + pair["prefill"]
        assert (row["chosen_model"], row["source"], row["licence"]) == ("base", "made", "CC0-1.0")


def test_step_pairs_have_the_raw_columns(load: Load, everything: Path) -> None:
    rows = {row["question"]: row for row in load(everything, "step_pairs")}
    row = rows[world.QUESTIONS[0]]
    assert (row["chosen"], row["rejected"]) == ("2 * 4 = 8.", "2 * 4 = 6.")
    assert row["full_chosen"] == world.RIGHT[world.RIGHT.index("2 *") :]
    assert row["initial_reason_steps"] + row["full_rejected"] == world.PREFILL + world.WRONG
    assert (row["answer"], rows[world.QUESTIONS[1]]["answer"]) == ("8", None)
    assert not row["chosen_eos"]


def test_demos_are_those_of_the_store(load: Load, everything: Path) -> None:
    rows = load(everything, "demos")
    own = stored(everything, "select *, text as completion from demo_texts order by prompt_id")
    for row, demo in zip(rows, [d for d in own if d["problem_id"] in TRAIN], strict=True):
        same(row, demo)
        assert row["eos"]


@pytest.mark.parametrize("table", ["samples", "rewards"])
def test_tables_are_those_of_the_store(load: Load, table: str, everything: Path) -> None:
    rows = load(everything, table)
    runs = {"samples": "drawn said", "rewards": "drawn"}[table].split()
    own = [
        row
        for run in runs
        for row in stored(everything, f"select * from {table} where run = '{run}' order by sample_id")
    ]
    assert rows == [row for row in own if row["sample_id"][:16] in TRAIN]


def test_step_labels_are_steps_up_to_the_first_wrong_one(load: Load, everything: Path) -> None:
    rows = {(r["prompt"], r["verdict"]): r for r in load(everything, "step_labels")}
    assert len(rows) == 4
    prompt = world.QUESTIONS[0] + world.PREFILL
    right, wrong = rows[prompt, "no_error"], rows[prompt, "error"]
    assert (right["labels"], len(right["completions"])) == ([True] * 3, 3)
    assert (wrong["labels"], wrong["completions"][1].strip()) == ([True, False], "2 * 4 = 6.")
    assert wrong["label_names"] == ["correct", "incorrect"]
    assert record(everything)["configs"]["step_labels"]["left_out"] == {"invalid": 2, "test": 3}


def record(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "provenance.json").read_text())


@pytest.mark.parametrize("streaming", [False, True])
def test_every_config_loads_and_the_first_is_the_default(load: Load, streaming: bool, everything: Path) -> None:
    counts = {name: len(load(everything, name, streaming=streaming)) for name in CONFIGS}
    assert counts == {name: config["rows"] for name, config in record(everything)["configs"].items()}
    assert load(everything, streaming=streaming) == load(everything, "pairs", streaming=streaming)


@pytest.mark.usefixtures("built")
def test_test_problems_come_where_the_release_says_so(load: Load) -> None:
    directory = world.release(test_answers=True)
    configs = [name for name in CONFIGS if len(load(directory, name)) % 3 == 0]
    assert configs == list(CONFIGS)
    assert "holds rows of test problems" in (directory / "README.md").read_text()
    assert record(directory)["test_answers"]


def test_without_them_no_text_of_a_test_problem_is_anywhere(everything: Path) -> None:
    secret = world.problems()[2]
    for path in everything.rglob("*.parquet"):
        assert secret.problem_id not in str(pq.read_table(path).to_pylist())
    assert secret.question not in (everything / "README.md").read_text() + (everything / "provenance.json").read_text()


def test_no_column_changes_how_trainers_read_the_others() -> None:
    """TRL takes rows with any of these columns for conversations if that column is one, whatever the others are."""
    given = {"prompt", "chosen", "rejected", "completion", "messages"}
    for config in CONFIGS:
        conversations = {field.name for field in schema(config) if field.type == CHAT}
        assert not conversations & given


@pytest.mark.usefixtures("built")
def test_conversations_are_messages(load: Load) -> None:
    rows = load(world.release(pairs=["said"], demos=[], format="conversational"), "pairs")
    for row in rows:
        assert row["prompt"] == row["prompt_messages"]
        assert row["chosen"] == [{"role": "assistant", "content": world.RIGHT}]
        assert row["rejected"] == [{"role": "assistant", "content": world.WRONG}]


@pytest.mark.usefixtures("built")
def test_chat_prompts_become_strings_by_the_template(load: Load) -> None:
    from builders.model_files import load_tokenizer

    world.write_model()
    rows = load(world.release(pairs=["said", "whole"], model="words"), "pairs")
    tokenizer = load_tokenizer(Path("data/models/words"))
    assert [row["run"] for row in rows] == ["said", "said", "whole", "whole"]
    for row in rows:
        assert row["prompt"] == render_text(tokenizer, row["prompt_messages"], row["prefill"], row["rendering"])
    assert rows[0]["prompt"].startswith("system:\nBe brief.\n")


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pairs": ["said"]}, "name the model that has it in `model`"),
        ({"format": "conversational"}, "`rendering: text` are no conversations"),
        ({"licence": "wishful"}, "licence 'wishful' is not known"),
        ({"samples": ["continued_elsewhere"]}, "no entry 'continued_elsewhere' under 'samples'"),
        ({"pairs": ["step"]}, "'step' holds single steps; name it under `step_pairs`"),
        ({"step_pairs": ["whole"]}, "'whole' holds whole completions; name it under `pairs`"),
        ({"pairs": ["whole", "whole"]}, "'whole' is named twice"),
        ({config: [] for config in CONFIGS}, "a release of nothing"),
        ({"model": "base"}, "'base' is a script"),
        ({"language": ["English"]}, "export.everything.language"),
    ],
)
def test_a_mistake_is_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        world.release(**changes)
    assert "\n" not in str(error.value)
    assert not Path("data/export").exists()


@pytest.mark.usefixtures("built")
def test_an_unknown_licence_must_be_stated(load: Load) -> None:
    problems = [problem.model_copy(update={"licence": "see their page"}) for problem in world.problems()]
    world.world.write("problems", "train", problems)
    with pytest.raises(ValueError, match=r"export\.everything\.licence: the licence of a source is not known"):
        world.release()
    assert "license: other" in (world.release(licence="other") / "README.md").read_text()


@pytest.mark.usefixtures("built")
def test_a_problem_is_of_the_test_split_if_any_run_behind_says_so(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    second = world.problems()[1]
    copies = [problem.model_copy(update={"split": "test"}) for problem in world.problems()[1:]]
    world.world.write("problems", "zweite", [world.problems()[0], *copies])
    union = {"a": "whole", "b": "said", "c": "none", "d": "none", "problems": "none"}
    more = {"problems": world.PARAMS["problems"] | {"zweite": world.world.PROBLEMS}, "pairs_union": {"both": union},
            "rewards": world.PARAMS["rewards"] | {"said": {"predictions": "said", "problems": "zweite"}}}  # fmt: skip
    for section, runs in more.items():
        monkeypatch.setitem(world.PARAMS, section, runs)
    asked = [world.world.prompt(problem, world.PREFILL) for problem in world.problems()]
    world.world.write("pairs", "both", [world.pair(p, *world._drawn(p)) for p in asked])
    only = {config: [] for config in CONFIGS} | {"pairs": ["both"]}
    kept = {row["problem_id"] for row in load(world.release(**only), "pairs")}
    assert kept == {world.problems()[0].problem_id}
    assert second.split == "train"


@pytest.mark.usefixtures("built")
def test_no_name_or_description_breaks_the_card(load: Load) -> None:
    from huggingface_hub import DatasetCard

    odd = {"pretty_name": "Sums: [é] | #\n---\nlicense: mit", "description": "---\n| a |\n<!-- revision -->\n---"}
    directory = world.release(**{config: [] for config in CONFIGS} | {"demos": ["star"]} | odd)
    stamp(directory, "1" * 40)
    text = (directory / "README.md").read_text()
    card = DatasetCard(text)
    assert (card.data.get("license"), card.data.get("pretty_name")) == ("cc0-1.0", "Sums: [é] | # --- license: mit")
    assert yaml.safe_load(text.split("---\n", 2)[1])["license"] == "cc0-1.0"
    assert (odd["description"] in card.text, text.count("1" * 40)) == (True, 1)
    assert len(load(directory)) == 2


@pytest.mark.usefixtures("built")
def test_a_lost_sample_is_an_error() -> None:
    asked = world.world.prompt(world.problems()[0], world.PREFILL)
    samples = [world.world.sample(asked, 0, world.RIGHT)]
    world.world.write("samples", "drawn", samples)
    with pytest.raises(ValueError, match=r"pairs run 'whole': sample .* is not in its samples"):
        world.release()


@pytest.mark.usefixtures("built")
def test_what_is_not_built_is_an_error() -> None:
    world.write_params({})
    with pytest.raises(ValueError, match="rewards run 'said' is not built"):
        world.release(rewards=["said"])


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.usefixtures("built")
def test_the_same_tables_give_the_same_bytes() -> None:
    """At any number of threads."""
    first, cores = bytes_of(world.release()), pa.cpu_count()
    try:
        pa.set_cpu_count(4)
        assert bytes_of(world.release()) == first
    finally:
        pa.set_cpu_count(cores)


def test_shards_are_as_datasets_writes_them(load: Load, everything: Path) -> None:
    import datasets

    assert datasets.config.DEFAULT_CDC_OPTIONS == CHUNKING
    assert ROW_GROUP_BYTES < 100_000_000
    (path,) = everything.glob("pairs/*")
    metadata = pq.ParquetFile(path).metadata
    assert json.loads(metadata.metadata[b"content_defined_chunking"]) == CHUNKING
    columns = {c.path_in_schema: c for c in map(metadata.row_group(0).column, range(metadata.num_columns))}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert all(column.has_offset_index and column.has_column_index for column in columns.values())
    assert "RLE_DICTIONARY" not in columns["chosen"].encodings + columns["pair_id"].encodings
    assert "RLE_DICTIONARY" in columns["run"].encodings


def test_shards_and_row_groups_are_cut(tmp_path: Path) -> None:
    """At the same places however the rows arrive; no shard is larger than the limit."""
    own = columns("rewards")
    ids = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(3000)]
    rows = pa.table([ids if c.name == "sample_id" else pa.nulls(3000, c.type) for c in own], [c.name for c in own])
    found = {}
    for size in (7, 3000):
        batches = [rows.slice(start, size) for start in range(0, 3000, size)]
        written = write_shards(tmp_path / str(size), "rewards", own, batches, 50_000)
        found[size] = [(tmp_path / str(size) / name).read_bytes() for name in written.files]
        assert (written.rows, written.file_bytes) == (3000, sum(map(len, found[size])))
        assert list(written.files)[-1] == f"rewards/train-{len(found[size]) - 1:05d}-of-{len(found[size]):05d}.parquet"
    assert found[7] == found[3000]
    assert len(found[7]) > 2
    assert max(map(len, found[7])) <= 50_000
    assert pa.concat_tables(map(pq.read_table, map(pa.BufferReader, found[7])))["sample_id"].to_pylist() == ids
