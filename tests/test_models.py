"""Model directories from every source: deterministic bytes, lossless tokenizers, nothing pickled."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import arithmetic, arithmetic_words, models, problems
from builders.model_files import fingerprint, load_model, load_tokenizer, read_record
from builders.models import initialise, run
from builders.word_tokenizer import build_tokenizer, template_texts, vocabulary
from schemas import Problem, Reject
from schemas.params import Params
from schemas.sections import ModelRun
from schemas.slots import NO_FILE
from stores.parquet import read_table
from stores.paths import rejects_dir, run_dir
from stores.stage import execute
from tests.hub_server import COMMIT, directory_files, hub_server

TINY = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
TINY |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
WORDS = sorted(set(re.findall("[A-Za-z]+", " ".join(arithmetic_words.vocabulary()))))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(arithmetic_words.vocabulary())


# --- the word tokenizer ------------------------------------------------------------------------------------------

pieces = st.sampled_from([*WORDS, *"0123456789", *".,?!+-*=:<>(){}$\\'\"", " ", "  ", "\n", "\t", "Final answer: "])


@settings(max_examples=150)
@given(text=st.lists(pieces, max_size=25).map("".join) | st.lists(pieces, max_size=25).map(" ".join))
def test_texts_of_known_words_survive(tokenizer: Any, text: str) -> None:
    """Joined without spaces two words may make an unknown one; then only that word is lost."""
    ids = tokenizer.encode(text)
    known = all(word in WORDS or word in ("Final", "answer") for word in re.findall("[A-Za-z]+", text))
    assert (tokenizer.unk_token_id not in ids) == known
    if known:
        assert tokenizer.decode(ids) == text


def test_tokens_are_words_and_single_digits_with_or_without_a_space(tokenizer: Any) -> None:
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("Anna has 125 = 9. Anna\n10"))
    assert tokens == ["Anna", " has", " 1", "2", "5", " =", " 9", ".", " Anna", "\n", "1", "0"]


def test_unknown_words_become_unk(tokenizer: Any) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("Anna quaffs é")) == ["Anna", "<unk>", "<unk>"]
    assert tokenizer.decode(tokenizer.encode("<eos>"), skip_special_tokens=True) == ""


def test_vocabulary_order_is_fixed() -> None:
    tokens = vocabulary(["two words?", "words «two»"])
    assert tokens[:11] == ["<pad>", "<eos>", "<unk>", " ", "\n", "\t", "\r", "0", " 0", "1", " 1"]
    assert tokens == vocabulary(["words two « ?", "»"])
    assert len(tokens) == len(set(tokens))
    assert {"two", " two", "«", " «", "assistant", " Question", "boxed"} <= set(tokens)


def test_every_template_and_ending_is_known(tokenizer: Any) -> None:
    for name in ("final_answer", "boxed", "question_answer"):
        text = yaml.safe_load((Path(models.__file__).parent / "templates" / f"{name}.yaml").read_text())["user"]
        for shown in (text, text + "\nFinal answer: 12"):
            assert tokenizer.decode(tokenizer.encode(shown)) == shown
            assert tokenizer.unk_token_id not in tokenizer.encode(shown)


def test_words_of_further_templates_are_known_where_they_are_named(tokenizer: Any) -> None:
    named = build_tokenizer([*arithmetic_words.vocabulary(), *template_texts(["numbered_steps"])])
    assert tokenizer.unk_token_id in tokenizer.encode("Step 1: 2")
    assert named.decode(named.encode("Answer:\nStep 1: 2")) == "Answer:\nStep 1: 2"
    with pytest.raises(ValueError, match=r"no 'numbered_step' in builders/templates \(did you mean 'numbered_steps'"):
        template_texts(["numbered_step"])


def test_templates_are_of_initialised_models() -> None:
    with pytest.raises(ValueError, match="templates: only a model that is initialised"):
        ModelRun(path="some/model", vocabulary="none", templates=["numbered_steps"])


# --- initialised models ------------------------------------------------------------------------------------------


def test_initialised_models_have_deterministic_bytes(tmp_path: Path) -> None:
    import torch

    made = {}
    for name, seed, threads in (("a", 0, 1), ("b", 0, 2), ("c", 1, 1)):
        (tmp_path / name).mkdir()
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        torch.manual_seed(hash(name) % 1000)
        initialise(TINY, arithmetic_words.vocabulary(), seed, tmp_path / name, "config")
        torch.set_num_threads(before)
        made[name] = directory_files(tmp_path / name)
    assert made["a"] == made["b"]
    assert {path for path in made["a"] if made["a"][path] != made["c"][path]} == {"model.safetensors"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "lama"}, r"config.model_type: .* no causal language model 'lama' \(did you mean 'llama'\?\)"),
        ({"model_type": None}, r"config.model_type: .* no causal language model 'None'"),
        ({"hidden_sizes": 3}, r"config.hidden_sizes: 'llama' has no such setting \(did you mean 'hidden_size'\?\)"),
        ({"vocab_size": 9}, "config.vocab_size: this follows from `vocabulary`; remove it"),
        ({"hidden_size": "x"}, "config: .*hidden_size.* expected int"),
        ({"hidden_size": 15}, "config: .*15"),
    ],
)
def test_wrong_configurations(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        initialise(TINY | changes, [], 0, tmp_path, "config")
    assert "\n" not in str(error.value)


# --- the stage ---------------------------------------------------------------------------------------------------


def params_file(sections: dict[str, Any]) -> None:
    empty: dict[str, Any] = {name: {} for name in Params.model_fields}
    Path("params.yaml").write_text(yaml.safe_dump(empty | {"seed": 5} | sections))


def model_run(**fields: Any) -> dict[str, Any]:
    return {"path": NO_FILE, "vocabulary": "none"} | fields


GENERATED = {"source": "arithmetic", "path": NO_FILE, "split": "train", "limit": 4, "steps": [2, 3]}


@pytest.fixture
def initialised(workspace: Path) -> Path:
    """A workspace with one initialised model, `m0`."""
    params_file({"problems": {"train": GENERATED}, "models": {"m0": model_run(config=TINY, vocabulary="train")}})
    execute("problems", "train", problems.run)
    execute("models", "m0", run)
    return workspace / "data" / "models" / "m0"


def test_an_initialised_model_loads_and_knows_all_generated_words(initialised: Path) -> None:
    import torch

    tokenizer, model = load_tokenizer(initialised), load_model(initialised)
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer) == dict(model.named_parameters())["lm_head.weight"].shape[0]
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert tokenizer.model_max_length == 64
    for problem in arithmetic.generate(99, (1, 6), 200):
        text = f"{problem.question}\n{problem.chain}\nFinal answer: {problem.answer}"
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids
    messages = [{"role": "user", "content": "How many?"}]
    chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat == "user:\nHow many?\nassistant:\n"
    record = read_record(initialised)
    assert record["provenance"]["seed"] == 5
    assert record["provenance"]["config"] == TINY
    assert record["provenance"]["trust_remote_code"] is False
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(record["files"])


def test_words_of_programs_are_known_only_where_a_template_asks_for_programs(initialised: Path) -> None:
    """A model without such a template keeps its vocabulary, whatever solutions its problems have."""
    natural = model_run(config=TINY, vocabulary="train", templates=["reft_natural"])
    program = natural | {"templates": ["reft_natural", "reft_program_start"]}
    params_file({"problems": {"train": GENERATED}, "models": {"n": natural, "p": program}})
    for name in ("n", "p"):
        execute("models", name, run)
    plain, words, programs = (load_tokenizer(Path("data/models") / name) for name in ("m0", "n", "p"))
    assert set(words.get_vocab()) - set(plain.get_vocab()) == {"reasoning", " reasoning"}
    for problem in arithmetic.generate(99, (1, 6), 100):
        for text in (
            problem.program,
            f"Answer reasoning:\n{problem.chain}\nTherefore, the answer is: {problem.answer}",
        ):
            assert programs.decode(programs.encode(text)) == text
            assert programs.unk_token_id not in programs.encode(text)
        assert words.unk_token_id in words.encode(problem.program)


def test_a_local_model_is_copied_without_code_or_pickles(initialised: Path) -> None:
    source = Path("download")
    source.mkdir()
    for name, content in directory_files(initialised).items():
        (source / name).write_bytes(content)
    (source / "modeling_x.py").write_text("raise SystemExit('executed')")
    (source / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    params_file({"models": {"m1": model_run(path="download")}})
    execute("models", "m1", run)
    copied = directory_files(Path("data/models/m1"))
    assert "modeling_x.py" not in copied
    assert "pytorch_model.bin" not in copied
    assert fingerprint(Path("data/models/m1")) == fingerprint(initialised)
    assert read_record(Path("data/models/m1"))["provenance"]["path"] == "download"
    params_file({"models": {"m2": model_run(path="download", trust_remote_code=True)}})
    execute("models", "m2", run)
    assert "modeling_x.py" in directory_files(Path("data/models/m2"))
    assert read_record(Path("data/models/m2"))["provenance"]["trust_remote_code"] is True


SAFETENSORS = (2).to_bytes(8, "little") + b"{}"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "path: no model directory at 'model'; download one there"),
        ({"model.safetensors": b"x"}, "path: 'model' has no config.json"),
        ({"config.json": b"{}"}, "path: 'model' has no weights; save it"),
        (
            {"config.json": b"{}", "pytorch_model.bin": pickle.dumps({})},
            "path: 'model' has only pytorch_model.bin, and pickled weights are not loaded; save it",
        ),
        (
            {"config.json": b"{}", "model.safetensors": (99).to_bytes(8, "little") + b"{"},
            "path: 'model/model.safetensors' is no whole safetensors file",
        ),
        (
            {
                "config.json": b"{}",
                "model-1.safetensors": SAFETENSORS,
                "model.safetensors.index.json": json.dumps(
                    {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
                ).encode(),
            },
            "path: 'model' lacks model-2.safetensors, which model.safetensors.index.json lists",
        ),
    ],
)
def test_directories_that_hold_no_model(workspace: Path, files: dict[str, bytes] | None, message: str) -> None:
    if files is not None:
        Path("model").mkdir()
        for name, content in files.items():
            (Path("model") / name).write_bytes(content)
    params_file({"models": {"m1": model_run(path="model")}})
    with pytest.raises(ValueError, match=message):
        execute("models", "m1", run)
    assert not Path("data/models/m1").exists()


@pytest.mark.parametrize(
    "content",
    [b'{"finger', b"\xff\xfe", b"[]", b"{}", b'{"fingerprint": 1, "files": {}, "provenance": {}}',
     b'{"fingerprint": "a", "files": ["x"], "provenance": {}}'],
    ids=["cut", "bytes", "a list", "no fields", "a number", "a list of files"],
)  # fmt: skip
def test_a_record_that_is_not_ours_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pairwright.json").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"pairwright\.json: no record of a model \(.+\); restore it with `dvc"
    ) as error:
        read_record(tmp_path)
    assert "\n" not in str(error.value)


def test_truncated_weights_are_noticed(initialised: Path) -> None:
    source = Path("download")
    source.mkdir()
    for name, content in directory_files(initialised).items():
        (source / name).write_bytes(content[:-4] if name == "model.safetensors" else content)
    params_file({"models": {"m1": model_run(path="download")}})
    with pytest.raises(ValueError, match="no whole safetensors file; download it again"):
        execute("models", "m1", run)


def test_a_script(workspace: Path) -> None:
    params_file({"models": {"s": model_run(script=["Final answer: 3", "é\n"])}})
    execute("models", "s", run)
    written = json.loads(Path("data/models/s/script.json").read_text(encoding="utf-8"))
    assert written == {"completions": ["Final answer: 3", "é\n"]}
    assert len(fingerprint(Path("data/models/s"))) == 16


# --- the Hub -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The Hub's client with a cache of its own and no progress bars."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(workspace.parent / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    return monkeypatch


def test_a_hub_model_comes_without_pickles(initialised: Path, hub_cache: pytest.MonkeyPatch) -> None:
    files = directory_files(initialised) | {"pytorch_model.bin": pickle.dumps({}), "modeling_x.py": b"1/0"}
    params_file({"models": {"m1": model_run(hub="owner/tiny", revision=COMMIT)}})
    with hub_server({"models/owner/tiny": files}) as endpoint:
        hub_cache.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        hub_cache.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )
        execute("models", "m1", run)
    assert fingerprint(Path("data/models/m1")) == fingerprint(initialised)
    provenance = read_record(Path("data/models/m1"))["provenance"]
    assert (provenance["hub"], provenance["revision"]) == ("owner/tiny", COMMIT)
    fetched = {path.name for path in (Path("..") / "hub").rglob("*")}
    assert "model.safetensors" in fetched
    assert not {"pytorch_model.bin", "modeling_x.py"} & fetched


def test_a_hub_data_set_and_its_splits(workspace: Path, hub_cache: pytest.MonkeyPatch) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    def shard(*numbers: int) -> bytes:
        sink = io.BytesIO()
        pq.write_table(
            pa.table({"question": [f"q{n}" for n in numbers], "answer": [f"#### {n}" for n in numbers]}), sink
        )
        return sink.getvalue()

    files = {"main/train-00000-of-00002.parquet": shard(1, 2), "main/train-00001-of-00002.parquet": shard(3, 2)}
    files |= {"main/test-00000-of-00001.parquet": shard(7), "socratic/train-00000-of-00001.parquet": shard(9)}
    row = {"source": "gsm8k", "path": NO_FILE, "revision": COMMIT}
    params_file({"problems": {"train": row | {"split": "train"}, "dev": row | {"split": "validation"}}})
    with hub_server({"datasets/openai/gsm8k": files}) as endpoint:
        hub_cache.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        hub_cache.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )
        execute("problems", "train", problems.run)
        with pytest.raises(ValueError, match=r"split: openai/gsm8k has no split 'validation' \(have test, train\)"):
            execute("problems", "dev", problems.run)
    questions = read_table(run_dir("problems", "train"), Problem, ["question"])["question"].to_pylist()
    assert sorted(questions) == ["q1", "q2", "q3"]
    (detail,) = read_table(rejects_dir("problems", "train"), Reject, ["detail"])["detail"].to_pylist()
    assert detail == (
        "openai/gsm8k/main/train-00001-of-00002.parquet row 2"
        " repeats openai/gsm8k/main/train-00000-of-00002.parquet row 2"
    )


def test_no_network_is_one_line(workspace: Path, hub_cache: pytest.MonkeyPatch) -> None:
    hub_cache.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # without it the client tries for a while
    params_file({"models": {"m1": model_run(hub="owner/tiny", revision=COMMIT)}})
    with pytest.raises(
        ValueError, match=r"hub: cannot fetch 'owner/tiny' at 012345678901 .* use a local `path`"
    ) as error:
        execute("models", "m1", run)
    assert "\n" not in str(error.value)


def test_a_branch_is_no_pin(workspace: Path) -> None:
    params_file({"models": {"m1": model_run(hub="owner/tiny", revision="main")}})
    with pytest.raises(ValueError, match=r"revision: give the 40-digit commit hash .* \(have 'main'\)"):
        execute("models", "m1", run)
