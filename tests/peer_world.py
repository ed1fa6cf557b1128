"""A store of texts that are hard to carry (controls, templates, dates), and tokenizers of three kinds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, PreTrainedTokenizerFast

from builders.exporting.peers import Wanted, export_for
from builders.model_files import write_record
from builders.word_tokenizer import build_tokenizer
from schemas import Answer, Chat, Demo, Pair, Problem, Prompt, Sample
from schemas.ids import problem_id, prompt_id, sample_id, text_hash
from stores.paths import run_dir
from stores.stage import Stage
from stores.store import Store
from tests import training_world as world
from tests.test_span_tokens import SPLIT, byte_level, llama_2
from train.data import Reader, load_demos, load_pairs
from train.tables import Tables

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
TEXTS = [
    ("Legs of 2 cats?\n", " 2 * 4 = 8 legs.", " 2 * 4 = 6.\n\n"),
    ("2 cats\nAnswer:", "\n```python\nprint(2 * 4)\n```", "\n\n  two  spaces 🐈\u200d⬛ e\u0301"),
    ("When? ", "2024-01-01", "2024-01-02"),
    ("{{idx}} {{content}} {} {% raw %}:", " <image> '\"\\ {{idx}}", " \x1b[31mred\x1b[0m\u2028\u0085\x00\r\n."),
    ("Step 1:", "8", " "),
]
"""(question, chosen, rejected)."""


def words() -> PreTrainedTokenizerFast:
    """The tokenizer of the models that are initialised here."""
    return build_tokenizer([text for row in TEXTS for text in row])


def qwen() -> PreTrainedTokenizerFast:
    """Bytes, no BOS, and ChatML, whose ending is the tokenizer's EOS."""
    tokenizer = byte_level(SPLIT)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})  # pyrefly: ignore
    tokenizer.chat_template = CHATML
    return tokenizer


def llama() -> PreTrainedTokenizerFast:
    """A space before whatever is encoded, BOS, and Llama 2's chat template."""
    tokenizer = llama_2()
    tokenizer.chat_template = INST
    return tokenizer


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {"words": words, "qwen": qwen, "llama": llama}


def build(root: Path, name: str, rendering: str, prefill: str = "", steps: bool = False) -> None:
    """Writes params, tables and the model directory `tiny` with one of the tokenizers.

    `steps`: the pairs are of single steps, which no ending follows.
    """
    world.set_params(root, {})
    write_model(root, name)
    asked = [_prompt(question, rendering, prefill) for question, _, _ in TEXTS]
    drawn = samples(rendering, prefill)
    for run, split in (("train", "train"), ("held_out", "validation"), ("test", "test")):
        world.write(root, run, [problem(question, split) for question, _, _ in TEXTS])
        world.write(root, run, [Answer(problem_id=p.problem_id, answer="8") for p in asked])
        world.write(root, run, asked)
    chosen, rejected = drawn[::2], drawn[1::2]
    world.write(root, "drawn", drawn)
    world.write(root, "good", [Demo(prompt_id=c.prompt_id or "", sample_id=c.sample_id) for c in chosen])
    world.write(root, "sums", [_pair(c, r, not steps) for c, r in zip(chosen, rejected, strict=True)])


def samples(rendering: str, prefill: str) -> list[Sample]:
    """The chosen and the rejected completion of every prompt."""
    asked = [_prompt(question, rendering, prefill) for question, _, _ in TEXTS]
    return [
        _sample(prompt, index, text)
        for prompt, row in zip(asked, TEXTS, strict=True)
        for index, text in enumerate(row[1:])
    ]


def write_model(root: Path, name: str) -> None:
    """A model directory as far as a tokenizer needs one: configuration, no real weights."""
    directory, tokenizer = world.model_dir(run_dir("models", "tiny", root)), TOKENIZERS[name]()
    config: dict[str, Any] = world.LLAMA | {"max_position_embeddings": 4096, "vocab_size": len(tokenizer)}
    config |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    LlamaConfig(**config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "model.safetensors").write_bytes(b"")
    write_record(directory, {"source": "local"})


def problem(question: str, split: str) -> Problem:
    return Problem.model_validate(
        {
            "problem_id": problem_id("made", question, None), "source": "made", "split": split, "question": question,
            "choices": None, "answer_kind": "number", "level": None, "subject": None, "licence": "CC0-1.0",
        }
    )  # fmt: skip


def _prompt(question: str, rendering: str, prefill: str) -> Prompt:
    message, of = Chat(role="user", content=question), problem_id("made", question, None)
    return Prompt.model_validate(
        {
            "prompt_id": prompt_id(of, [message.model_dump()], prefill, rendering), "problem_id": of,
            "messages": [message], "prefill": prefill, "rendering": rendering, "style": "natural",
            "template": "own-1", "demo_sample_ids": None,
        }
    )  # fmt: skip


def _sample(asked: Prompt, index: int, text: str) -> Sample:
    return Sample.model_validate(
        dict.fromkeys(Sample.model_fields)
        | {
            "sample_id": sample_id(asked.prompt_id, "0" * 8, index), "prompt_id": asked.prompt_id,
            "problem_id": asked.problem_id, "model": "tiny", "model_fingerprint": "", "index": index,
            "text": text, "text_hash": text_hash(text), "n_chars": len(text), "finish_reason": "stop",
        }
    )  # fmt: skip


def _pair(chosen: Sample, rejected: Sample, eos: bool) -> Pair:
    return Pair(
        prompt_id=chosen.prompt_id or "", rank=0, problem_id=chosen.problem_id,
        chosen_sample_id=chosen.sample_id, chosen_start=0, chosen_end=chosen.n_chars, chosen_eos=eos,
        rejected_sample_id=rejected.sample_id, rejected_start=0, rejected_end=rejected.n_chars, rejected_eos=eos,
    )  # fmt: skip


RUNS = {"pairs": "sums", "demos": "good", "prompts": "train"}


class Built:
    """Stores below a directory, and what is exported of them: each is made once."""

    def __init__(self, root: Path):
        self.root = root

    def store(self, name: str, rendering: str, prefill: str = "", steps: bool = False) -> Path:
        """The directory of a store, as `build` writes it."""
        at = self.root / "-".join([name, rendering, prefill.strip(" ,:") or "none", "steps" if steps else "whole"])
        if not at.exists():
            at.mkdir()
            build(at, name, rendering, prefill, steps)
        return at

    def export(self, store: Path, peer: str, table: str, model: str | None = "tiny") -> Path:
        """The directory of an export."""
        at = store / f"{peer}-{table}-{'chat' if model is None else 'text'}"
        if not at.exists():
            with Store.open(store) as opened:
                export_for(opened, Wanted(peer, RUNS[table], table, model), at)
        return at


def ours(root: Path, table: str) -> list[list[tuple[list[int], list[int]]]]:
    """The tokens that training reads, of every row and completion."""
    section, name = {"pairs": ("preference", "dpo"), "demos": ("sft", "warm")}[table]
    stage = Stage(section, name, root)
    source, reader = Tables(stage, table, RUNS[table]), Reader.of(stage)
    if table == "demos":
        return [[(d.tokens.prompt.tolist(), d.tokens.completion.tolist())] for d in load_demos(source, reader)]
    pairs = load_pairs(source, reader)
    return [[(s.prompt.tolist(), s.completion.tolist()) for s in pair.sequences] for pair in pairs]
