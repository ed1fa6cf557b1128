"""Exports for other trainers: texts and tokens of every row, how they can be written, and what is refused.

What the trainers' own code makes of them is in `test_peers_real.py`.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from builders.exporting.peers import Exported, Wanted, export_for
from builders.model_files import load_tokenizer
from builders.rendering import render_text
from stores.cli import main
from stores.store import Store
from tests import peer_world, training_world
from tests.peer_world import RUNS, Built
from tests.versions import Project

WORLDS = [("words", "text", "Step 1:"), ("qwen", "chat", ""), ("llama", "text", "")]
EQUAL = {"words": (10, 8, 10), "qwen": (8, 8, 8), "llama": (4, 0, 5)}
"""How many of the ten sequences the ways of TRL, LLaMA-Factory and OpenRLHF give our tokens of."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Stores, and what is exported of them, each made once."""
    return Built(tmp_path_factory.mktemp("peers"))


def export(peer: str, table: str, directory: Path, rev: str | None = None, **wanted: Any) -> Exported:
    with Store.open(rev=rev) as store:
        return export_for(store, Wanted(peer, RUNS[table], table, **wanted), directory)


def rows(directory: Path) -> list[dict[str, Any]]:
    return pq.read_table(directory / "train.parquet").to_pylist()


def stored(root: Path, table: str) -> list[tuple[list[dict[str, str]], str, str, list[str]]]:
    """(messages, prefill, rendering, completions) of every row, as the store has them."""
    columns, order = {
        "pairs": ("[chosen, rejected]", "prompt_id, rank"), "demos": ("[text]", "prompt_id, sample_id"),
    }[table]  # fmt: skip
    query = f"select messages, prefill, rendering, {columns} from {table[:-1]}_texts where run = ? order by {order}"
    with Store.open(root) as store:
        found: list[Any] = store.sql(query, [RUNS[table]]).fetchall()
    return found


@pytest.mark.parametrize("world", WORLDS)
def test_trl_has_texts_and_our_tokens(made: Built, world: tuple[str, str, str]) -> None:
    root = made.store(*world)
    tokenizer, pairs = load_tokenizer(root / "data/models/tiny"), rows(made.export(root, "trl", "pairs"))
    tokens = [[(r["prompt_ids"], r["chosen_ids"]), (r["prompt_ids"], r["rejected_ids"])] for r in pairs]
    assert tokens == peer_world.ours(root, "pairs")
    for row, (messages, prefill, rendering, texts) in zip(pairs, stored(root, "pairs"), strict=True):
        assert [row["chosen"], row["rejected"]] == texts
        assert row["prompt"] == render_text(tokenizer, messages, prefill, rendering)
    demos = rows(made.export(root, "trl", "demos")) if world[0] == "llama" else []
    for row, ((prompt, completion),) in zip(demos, peer_world.ours(root, "demos")[: len(demos)], strict=True):
        assert (row["input_ids"], row["labels"]) == (prompt + completion, [-100] * len(prompt) + completion)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("peer", ["llama-factory", "openrlhf"])
def test_texts_hold_what_the_trainer_does_not_add(made: Built, peer: str, world: tuple[str, str, str]) -> None:
    root = made.store(*world)
    tokenizer, begins = load_tokenizer(root / "data/models/tiny"), "<s>" if world[0] == "llama" else ""
    pairs = rows(made.export(root, peer, "pairs"))
    for row, (messages, prefill, rendering, texts) in zip(pairs, stored(root, "pairs"), strict=True):
        assert row["prompt"] == begins + render_text(tokenizer, messages, prefill, rendering)
        assert [row["chosen"], row["rejected"]] == [text + str(tokenizer.eos_token) for text in texts]


@pytest.mark.parametrize("world", WORLDS)
def test_an_export_says_how_many_sequences_are_ours(made: Built, world: tuple[str, str, str]) -> None:
    """Together, what reaches across the boundary differs; apart, `{{idx}}` is filled in and Llama 2 writes a space."""
    root = made.store(*world)
    for peer, equal in zip(("trl", "llama-factory", "openrlhf"), EQUAL[world[0]], strict=True):
        directory = made.export(root, peer, "pairs")
        record = json.loads((directory / "export.json").read_text())
        assert (record["equal"], record["sequences"], record["rows"]) == (equal, 10, 5), peer
        said = "All 10 sequences have" if equal == 10 else f"**Tokens.** {equal} of 10 sequences have"
        assert said in (directory / "README.md").read_text()


@pytest.mark.parametrize(
    ("peer", "ended", "equal", "more"),
    [("trl", False, 0, True), ("llama-factory", False, 8, False), ("openrlhf", True, 0, True)],
)
def test_a_step_has_no_ending_where_that_can_be(made: Built, peer: str, ended: bool, equal: int, more: bool) -> None:
    directory = made.export(made.store("qwen", "text", steps=True), peer, "pairs")
    ends = {row[side].endswith("<|im_end|>") for row in rows(directory) for side in ("chosen", "rejected")}
    said = (directory / "README.md").read_text()
    assert ends == {ended}
    assert f"{equal} of 10 sequences have" in said
    assert ("8 have one EOS more, after a text that has not ended" in said) == more


def test_llama_factory_has_our_tokens_too(made: Built) -> None:
    from datasets import load_from_disk

    root = made.store("llama", "text")
    for table, sides in (("pairs", ("chosen_", "rejected_")), ("demos", ("",))):
        directory = made.export(root, "llama-factory", table)
        read: Any = load_from_disk(str(directory / "tokens"))["train"]
        for row, expected in zip(read, peer_world.ours(root, table), strict=True):
            for side, (prompt, completion) in zip(sides, expected, strict=True):
                assert row[f"{side}input_ids"] == prompt + completion
                assert row[f"{side}labels"] == [-100] * len(prompt) + completion
        assert sorted(path.name for path in directory.iterdir()) == [
            "README.md", "dataset_info.json", "export.json", "tokens", "train.parquet", "train.yaml",
        ]  # fmt: skip


def test_llama_factory_is_told_what_the_columns_are(made: Built) -> None:
    root = made.store("qwen", "chat")
    texts, chats = made.export(root, "llama-factory", "pairs"), made.export(root, "llama-factory", "pairs", model=None)
    for directory, formatting in ((texts, "alpaca"), (chats, "sharegpt")):
        info = json.loads((directory / "dataset_info.json").read_text())["sums"]
        assert (info["formatting"], info["ranking"]) == (formatting, True)
        assert set(info["columns"].values()) <= set(pq.read_schema(directory / "train.parquet").names)
    settings = yaml.safe_load((texts / "train.yaml").read_text())
    assert (settings["template"], settings["tokenized_path"], settings["dataset"]) == ("empty", "tokens", "sums")


def test_verl_has_prompts_with_answers(made: Built) -> None:
    root = made.store("llama", "text")
    first = rows(made.export(root, "verl", "prompts"))[0]
    with Store.open(root) as store:
        query = "select prompt_id, messages[1].content from prompts where run = 'train' order by prompt_id"
        prompt_id, content = store.sql(query).fetchall()[0]
    assert first["prompt"] == [{"role": "user", "content": f"<s>{content}"}]
    assert first["reward_model"] == {"style": "rule", "ground_truth": "8"}
    assert (first["data_source"], first["ability"]) == ("made", "math")
    assert (first["extra_info"]["index"], first["extra_info"]["prompt_id"]) == (0, prompt_id)


def test_verl_has_our_tokens_of_demos(made: Built) -> None:
    root = made.store("llama", "text")
    demos = rows(made.export(root, "verl", "demos"))
    for row, ((prompt, completion),) in zip(demos, peer_world.ours(root, "demos"), strict=True):
        assert (row["input_ids"], sum(row["loss_mask"])) == (prompt + completion, len(completion))
        assert row["loss_mask"][len(prompt) :] == [1] * len(completion)


@pytest.mark.parametrize(
    ("peer", "table", "names"),
    [
        ("trl", "pairs", ["prompt", "chosen", "rejected"]),
        ("trl", "demos", ["prompt", "completion"]),
        ("openrlhf", "demos", ["input", "output"]),
    ],
)
def test_chats_can_be_messages(made: Built, peer: str, table: str, names: list[str]) -> None:
    root = made.store("qwen", "chat")
    written = rows(made.export(root, peer, table, model=None))
    for row, (messages, _, _, texts) in zip(written, stored(root, table), strict=True):
        turns = [[{"role": "assistant", "content": text}] for text in texts]
        assert [row[name] for name in names] == [messages, *turns]
        assert "messages" not in row  # to TRL, a row that has it is a conversation


def test_texts_for_trl_need_no_model(made: Built) -> None:
    root = made.store("words", "text", "Step 1:")
    written = rows(made.export(root, "trl", "pairs", model=None))
    for row, (messages, prefill, _, texts) in zip(written, stored(root, "pairs"), strict=True):
        assert [row["prompt"], row["chosen"], row["rejected"]] == [messages[0]["content"] + prefill, *texts]
    assert "prompt_ids" not in written[0]


CHAT = {"form": "conversational"}
REFUSED: list[tuple[tuple[str, str, bool], str, dict[str, Any], str]] = [
    (("chat", "So, ", False), "trl", CHAT,
     "5 prompts have a prefill, which no list of messages can hold; export texts: --format standard --model MODEL"),
    (("chat", "So, ", False), "trl", {"model": None}, "need a tokenizer, since their chats must be rendered; name the"),
    (("chat", "", True), "trl", CHAT, "5 rows have a completion that has not ended, and a message closes the turn"),
    (("text", "", True), "trl", CHAT, "5 prompts have `rendering: text`"),
    (("text", "", True), "openrlhf", {"model": None}, "need a tokenizer, since OpenRLHF adds no BOS and EOS by itself"),
    (("text", "", True), "trl", {"model": "other"}, r"no run 'other' of models in params.yaml \(have 'dpo', 'tiny'"),
    (("text", "", True), "verl", {}, "verl trains on no pairs; export prompts or demos with --table"),
    (("text", "", True), "trl", {"run": "absent"}, r"no run 'absent' of pairs in params.yaml \(have 'sums'\)"),
    (("text", "", True), "trl", {"table": "samples"}, "no table 'samples' is exported for trainers"),
    (("text", "", True), "axolotl", {}, r"no exporter for 'axolotl' \(have trl, llama-factory, openrlhf, verl\)"),
]  # fmt: skip


@pytest.mark.parametrize(("world", "peer", "wanted", "message"), REFUSED)
def test_what_cannot_be_written_is_refused(
    made: Built, tmp_path: Path, world: tuple[str, str, bool], peer: str, wanted: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"run": "sums", "table": "pairs", "model": "tiny"} | wanted
    with Store.open(made.store("qwen", *world)) as store, pytest.raises(ValueError, match=message):
        export_for(store, Wanted(peer, **given), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_not_built_and_a_directory_in_use_are_refused(workspace: Path) -> None:
    peer_world.build(workspace, "words", "text")
    Path("out").mkdir()
    Path("out/mine").write_text("kept")
    with pytest.raises(ValueError, match="out: not an empty directory"):
        export("trl", "pairs", Path("out"))
    assert Path("out/mine").read_text() == "kept"
    Path("data/pairs/run=sums/part-00000.parquet").unlink()
    with pytest.raises(ValueError, match="pairs run 'sums' is not built; run `dvc repro`"):
        export("trl", "pairs", Path("new"))


def test_a_lost_sample_ends_the_export_and_leaves_nothing(workspace: Path) -> None:
    peer_world.build(workspace, "words", "text")
    last = max(peer_world.samples("text", ""), key=lambda s: s.sample_id)
    kept = [s for s in peer_world.samples("text", "") if s.sample_id != last.sample_id]
    training_world.write(workspace, "drawn", kept)
    with pytest.raises(ValueError, match=rf"pair \({last.prompt_id}, 0\): its prompt or a sample is not in what"):
        export("trl", "pairs", Path("out"))
    assert not [path for path in workspace.iterdir() if "out" in path.name]


def test_a_killed_export_is_swept_away_by_the_next(workspace: Path) -> None:
    peer_world.build(workspace, "words", "text")
    Path(".out.unfinished").mkdir()
    Path(".out.unfinished/train.parquet").write_bytes(b"half")
    Path("out").mkdir()
    export("trl", "pairs", Path("out"))
    assert len(rows(Path("out"))) == 5
    assert not Path(".out.unfinished").exists()


@pytest.mark.parametrize(("peer", "table"), [("trl", "pairs"), ("verl", "prompts")])
def test_rows_of_test_problems_are_left_out_unless_asked_for(workspace: Path, peer: str, table: str) -> None:
    peer_world.build(workspace, "words", "text")
    problems = [peer_world.problem(q, "test" if i < 2 else "train") for i, (q, *_) in enumerate(peer_world.TEXTS)]
    training_world.write(workspace, "train", problems)
    done = export(peer, table, Path("some"), model="tiny")
    assert (done.rows, done.left_out) == (3, 2)
    assert "Left out: 2 of test problems." in Path("some/README.md").read_text()
    done = export(peer, table, Path("all"), model="tiny", test_answers=True)
    assert (done.rows, done.left_out) == (5, 0)
    training_world.write(workspace, "train", [p.model_copy(update={"split": "test"}) for p in problems])
    with pytest.raises(ValueError, match=f"all problems of {table} run .* are of a test split; --test-answers"):
        export(peer, table, Path("none"))


def test_another_version_is_exported_without_its_weights(workspace: Path) -> None:
    project = Project(workspace)
    peer_world.build(workspace, "llama", "text")
    commit = project.commit(tag="v1.0")
    export("trl", "pairs", Path("before"), model="tiny")
    peer_world.build(workspace, "words", "text", steps=True)
    (weights,) = Path("data/models/tiny").glob("*.safetensors")
    hashed = hashlib.md5(weights.read_bytes()).hexdigest()
    (project.cache / "files/md5" / hashed[:2] / hashed[2:]).unlink()
    export("trl", "pairs", Path("out"), rev="v1.0", model="tiny")
    assert rows(Path("out")) == rows(Path("before"))
    assert json.loads(Path("out/export.json").read_text())["revision"] == commit
    assert f"at revision {commit}" in Path("out/README.md").read_text()


def test_settings_are_those_of_the_run_that_trains_on_it(made: Built) -> None:
    root = made.store("qwen", "chat")
    script = (made.export(root, "trl", "pairs") / "train.py").read_text()
    compile(script, "train.py", "exec")
    assert "TRL's `sft` term is the mean over all chosen tokens" in (root / "trl-pairs-text/README.md").read_text()
    for setting in ("loss_type=['sigmoid', 'sft']", "beta=0.1", "max_steps=6", "max_length=None"):
        assert setting in script
    settings = yaml.safe_load((made.export(root, "llama-factory", "pairs") / "train.yaml").read_text())
    assert (settings["pref_beta"], settings["pref_ftx"], settings["per_device_train_batch_size"]) == (0.1, 1.0, 4)


def test_the_command_says_what_it_wrote(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peer_world.build(workspace, "qwen", "text")
    monkeypatch.setattr(sys, "argv", ["pairwright", "export-for", "trl", "sums", "out", "--model", "tiny"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert capsys.readouterr().out.startswith("out: 5 pairs\n8 of 10 sequences have the tokens that `train` reads")
