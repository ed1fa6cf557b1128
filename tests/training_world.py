"""A small store to train in: sums, right and wrong completions, a tiny model, and params to refer to them."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

import schemas.params
import train.preference
import train.reference
import train.sft
from builders.engines import Request
from builders.model_files import load_model, load_tokenizer, write_record
from builders.models import initialise
from builders.rendering import completion_ids, render
from schemas import TABLES, Answer, Chat, Demo, Pair, Prediction, Problem, Prompt, Row, Sample
from schemas.ids import problem_id, prompt_id, sample_id, text_hash
from schemas.params import load_params
from stores.parquet import read_table, rows_to_table, write_table
from stores.paths import run_dir
from stores.stage import Stage, execute
from tests.stage_world import UNMOVED
from train import data
from train.tables import Tables

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
BY_GENERATION = {
    "prompts": "held_out",
    "problems": "held_out",
    "questions": "none",
    "labels": "none",
    "sampling": "greedy",
    "every": 2,
}
BY_LABELS = BY_GENERATION | {"problems": "none", "questions": "held_out", "labels": "held_out"}
VALIDATION = {
    "prompts": "none",
    "problems": "none",
    "questions": "none",
    "labels": "none",
    "sampling": "greedy",
    "every": 4,
}
OPTIMIZER = {"lr": 1e-3, "batch_size": 4, "steps": 6}
PARAMS: dict[str, Any] = {
    "seed": 0,
    "sampling": {
        "greedy": {"temperature": 0.0, "max_new_tokens": 8},
        "explore": {"temperature": 1.0, "max_new_tokens": 8},
    },
    "problems": {
        "train": {"source": "arithmetic", "path": "data/none", "split": "train", "limit": 2, "steps": [1, 1]},
        "held_out": {"source": "arithmetic", "path": "data/none", "split": "validation", "limit": 2, "steps": [1, 1]},
        "test": {"source": "arithmetic", "path": "data/none", "split": "test", "limit": 2, "steps": [1, 1]},
    },
    "models": {"tiny": {"path": "data/none", "vocabulary": "train", "config": LLAMA}},
    "prompts": {
        name: {
            "problems": name,
            "template": "question_answer",
            "rendering": "text",
            "demo_samples": "none",
            "demo_problems": "none",
        }
        for name in ("train", "held_out", "test")
    },
    "samples": {"drawn": {"prompts": "train", "model": "tiny", "engine": "hf", "sampling": "explore", "n": 2}},
    "predictions": {
        name: {"samples": "drawn", "prompts": "train", "problems": "train"} for name in ("drawn", "held_out")
    },
    "rewards": {"drawn": {"predictions": "drawn", "problems": "train"}},
    "demos_correct": {"good": {"samples": "drawn", "rewards": "drawn"} | UNMOVED},
    "pairs_outcome": {"sums": {"samples": "drawn", "rewards": "drawn", "step_labels": "none", "gold": "none", "k": 1}},
    "reference": {"sums": {"pairs": "sums", "model": "tiny"}},
    "sft": {"warm": {"model": "tiny", "demos": "good", "watch": "none", "optimizer": OPTIMIZER}},
    "preference": {
        "dpo": {
            "model": "tiny",
            "pairs": "sums",
            "reference": "sums",
            "loss": "dpo_nll",
            "optimizer": OPTIMIZER,
            "log_every": 1,
        }
    },
    "report": {},
}
for _name in schemas.params.STAGES:
    PARAMS.setdefault(_name, {})
for _run in (PARAMS["sft"]["warm"], PARAMS["preference"]["dpo"]):
    _run |= {"steps_from": "none", "validation": VALIDATION}


def build(root: Path, count: int = 10, changes: dict[str, Any] | None = None) -> None:
    """Writes the model, all tables of `count` training sums, and params with `changes` (dotted path -> value)."""
    set_params(root, changes or {})
    texts = [text for i in range(count) for text in (question(i), completion(i, 0), completion(i, 1))]
    model = run_dir("models", "tiny", root)
    config = load_params(root / "params.yaml").models["tiny"].config
    assert config is not None
    write_record(model, initialise(config, texts, 0, model_dir(model), "config"))
    for split, name in (("train", "train"), ("validation", "held_out"), ("test", "test")):
        write_problems(root, name, split, count if name == "train" else 4)
    samples = [sample for i in range(count) for sample in drawn(i)]
    write(root, "drawn", samples)
    write(root, "good", [Demo(prompt_id=s.prompt_id or "", sample_id=s.sample_id) for s in samples if s.index == 0])
    write(root, "sums", [pair(i) for i in range(count)])


def set_params(root: Path, changes: dict[str, Any]) -> None:
    params = deepcopy(PARAMS)
    for path, value in changes.items():
        *parents, last = path.split(".")
        at = params
        for part in parents:
            at = at.setdefault(part, {})
        at[last] = deepcopy(value)
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def write(root: Path, run: str, rows: list[Any]) -> None:
    row_class: type[Row] = type(rows[0])
    write_table(run_dir(row_class.table, run, root), row_class, [rows_to_table(row_class, rows)])


def model_dir(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def question(i: int) -> str:
    return f"What is {i} plus {i + 3}?"


def completion(i: int, index: int) -> str:
    """Index 0 is right; 1 is wrong and longer."""
    return f" Final answer: {2 * i + 3}" if index == 0 else f" {i} plus {i} is easy. Final answer: {2 * i + 4}"


def ask(i: int) -> Prompt:
    problem = problem_id("arithmetic", question(i), None)
    messages = [Chat(role="user", content=f"Question: {question(i)}\nAnswer:")]
    key = prompt_id(problem, [m.model_dump() for m in messages], "", "text")
    return Prompt(
        prompt_id=key, problem_id=problem, messages=messages, prefill="", rendering="text", style="natural",
        template="question_answer", demo_sample_ids=None,
    )  # fmt: skip


def drawn(i: int) -> list[Sample]:
    asked = ask(i)
    return [
        Sample(
            sample_id=sample_id(asked.prompt_id, "0" * 8, index), prompt_id=asked.prompt_id,
            problem_id=asked.problem_id, model="tiny", model_fingerprint="", index=index, seed=0, temperature=1.0,
            top_p=1.0, text=text, text_hash=text_hash(text), n_chars=len(text), n_tokens=None, n_prompt_tokens=None,
            token_ids=None, finish_reason="stop",
        )
        for index, text in enumerate((completion(i, 0), completion(i, 1)))
    ]  # fmt: skip


def pair(i: int, **changes: Any) -> Pair:
    chosen, rejected = drawn(i)
    row = {
        "prompt_id": chosen.prompt_id, "rank": 0, "problem_id": chosen.problem_id,
        "chosen_sample_id": chosen.sample_id, "chosen_start": 0, "chosen_end": chosen.n_chars, "chosen_eos": True,
        "rejected_sample_id": rejected.sample_id, "rejected_start": 0, "rejected_end": rejected.n_chars,
        "rejected_eos": True,
    }  # fmt: skip
    return Pair.model_validate(row | changes)


def write_problems(root: Path, run: str, split: str, count: int) -> None:
    asked = [ask(i) for i in range(count)]
    problems = [
        Problem(
            problem_id=prompt.problem_id, source="arithmetic", split=split, question=question(i), choices=None,
            answer_kind="number", level="1", subject=None, licence="Apache-2.0",
        )
        for i, prompt in enumerate(asked)
    ]  # fmt: skip
    write(root, run, problems)
    write(root, run, [Answer(problem_id=p.problem_id, answer=str(2 * i + 3)) for i, p in enumerate(asked)])
    write(root, run, asked)


def label(i: int, answer: str | None, index: int = 0, extractor: str = "number:marker") -> Prediction:
    """What a sample of sum `i` is said to state."""
    return Prediction(
        sample_id=drawn(i)[index].sample_id, extracted=answer, normalised=answer, extractor=extractor,
        extractor_version="1",
    )  # fmt: skip


def requests(count: int) -> list[Request]:
    return [Request(p.prompt_id, tuple(p.messages), p.prefill, p.rendering) for p in map(ask, range(count))]


STAGES = {"sft": train.sft.run, "reference": train.reference.run, "preference": train.preference.run}


def run(root: Path, *names: str) -> None:
    for name in names:
        section, key = name.split(".")
        execute(section, key, STAGES[section], root)


def load(root: Path, place: str = "preference.dpo", run: str = "sums") -> list[data.Pair]:
    """A pairs run as a training run reads it."""
    section, key = place.split(".")
    stage = Stage(section, key, root)
    return data.load_pairs(Tables(stage, "pairs", run), data.Reader.of(stage))


def rows(root: Path, table: str, key: str) -> list[dict[str, Any]]:
    return read_table(root / f"data/{table}/run={key}", TABLES[table]).to_pylist()


def weights(root: Path, key: str) -> dict[str, torch.Tensor]:
    return load_file(root / f"data/models/{key}/model.safetensors")


def assert_same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], atol: float) -> None:
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=0, atol=atol)


def independent_logprob(root: Path, i: int, index: int, key: str = "tiny", of: int | None = None) -> float:
    """Summed log-prob of a completion of sum `i` (or `of` another) after its prompt, from whole float64 logits of the
    unmodified model.
    """
    directory, asked = root / "data/models" / key, ask(i)
    model, tokenizer = load_model(directory).double(), load_tokenizer(directory)
    rendered = render(tokenizer, [m.model_dump() for m in asked.messages], "", "text")
    text = completion(i if of is None else of, index)
    prompt, scored = rendered.ids, completion_ids(tokenizer, rendered, text, 1)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + scored])).logits[0].numpy()
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return float(sum(logprobs[len(prompt) + t - 1, token] for t, token in enumerate(scored)))


def evenly_spaced(limit: int) -> list[int]:
    """Sums whose pairs a limit takes: pairs are in the order of prompt ids."""
    order = sorted(range(10), key=lambda i: ask(i).prompt_id)
    return [order[i] for i in np.linspace(0, 9, limit).round().astype(int)]
