"""Model directories: what is in them, their fingerprint, and loading. Heavy imports happen inside functions.

A model directory is what `save_pretrained` writes (safetensors only) and `pairwright.json`: the SHA-256 of every file,
the fingerprint over them, and where the model came from. One that came as a LoRA adapter holds its base, and the
adapter unmerged in `adapter/`: what loads the model merges them or applies both.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from schemas.ids import digest
from stores.model_record import RECORD, read_record

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

ADAPTER = "adapter"
"""Where a model directory keeps its LoRA adapter, if it has one."""
TRAINED_ADAPTER = "lora"
"""Where a model that was trained here with LoRA keeps the adapter that was merged into it, to publish it alone."""
REWARD_MODEL = "reward_model"
"""Source of a directory whose model classifies samples instead of writing any."""
_DECIDING = {".safetensors", ".json", ".model", ".txt", ".jinja", ".tiktoken", ".py"}
_ENGINES = {"script": "scripted", "hosted": "openai"}
"""Source of a directory without weights -> the engine that answers for it."""


def write_record(directory: Path, provenance: dict[str, Any]) -> str:
    """Writes `pairwright.json` and returns the fingerprint: a hash over weights, configuration and tokenizer files.

    A trained adapter is in the record, but not in the fingerprint: the merged weights say all that it does.
    Raises ValueError if the directory holds pickled weights, which are never loaded.
    """
    files = {
        path.relative_to(directory).as_posix(): _sha256(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.suffix in _DECIDING and path.name != RECORD
    }
    if not any(name.endswith((".safetensors", "script.json", "hosted.json")) for name in files):
        raise ValueError(f"{directory}: no .safetensors weights (pickled weights are not loaded; convert them first)")
    adapter = {name: files.pop(name) for name in list(files) if name.startswith(f"{TRAINED_ADAPTER}/")}
    fingerprint = digest(files)
    record = {"fingerprint": fingerprint, "provenance": provenance, "files": files}
    record |= {"trained_adapter": adapter} if adapter else {}
    (directory / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return fingerprint


def fingerprint(directory: Path) -> str:
    """The fingerprint of a model directory (16 hex digits)."""
    return read_record(directory)["fingerprint"]


def check_weights(directory: Path) -> None:
    """Raises ValueError if a model directory holds no weights but stands for a script or a hosted model."""
    source = read_record(directory)["provenance"].get("source")
    if source in _ENGINES:
        raise ValueError(f"{directory}: made from `{source}`; use engine '{_ENGINES[source]}'")


def check_language_model(directory: Path) -> None:
    """Raises ValueError for a directory without weights, and for a reward model, which cannot write."""
    check_weights(directory)
    if is_reward_model(directory):
        raise ValueError(f"{directory}: a reward model, which only scores texts; name a language model")


def is_reward_model(directory: Path) -> bool:
    """Whether a directory holds a classifier of texts and no language model, by its record or its configuration."""
    if read_record(directory)["provenance"].get("source") == REWARD_MODEL:
        return True
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def adapter_of(directory: Path) -> Path | None:
    """The LoRA adapter of a model directory; None where the weights are all there is."""
    return directory / ADAPTER if (directory / ADAPTER).is_dir() else None


def load_model(directory: Path, dtype: str = "float32") -> "PreTrainedModel":
    """The causal language model of a directory, on the CPU, in evaluation mode, an adapter merged. Never unpickles."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    check_language_model(directory)
    logging.disable_progress_bar()  # our own progress is enough, and stderr need not be a terminal
    model = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=trusts_code(directory),
        local_files_only=True,
    )
    if adapter := adapter_of(directory):
        model = _merged(model, adapter)
    model.eval().set_attn_implementation(plain_attention(model))
    return model


def _merged(model: "PreTrainedModel", adapter: Path) -> "PreTrainedModel":
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter).merge_and_unload()  # pyrefly: ignore


def plain_attention(model: "PreTrainedModel") -> str:
    """The attention that the unmodified model is to run with: its own, except that transformers' `sdpa` drops the
    soft-cap of attention scores (Gemma 2) without a word."""
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped else model.config._attn_implementation or "eager"


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model directory."""
    from transformers import AutoTokenizer

    trusted = trusts_code(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trusted, local_files_only=True)
    assert tokenizer is not None
    return tokenizer


class Limits(NamedTuple):
    """What a model's configuration says about the sequences it reads and writes."""

    eos_ids: tuple[int, ...]
    """Tokens that end a completion."""
    positions: int | None
    """Longest sequence in tokens; None where the architecture has no limit."""


def load_config(directory: Path) -> "PreTrainedConfig":
    """The configuration of a model directory."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(directory, trust_remote_code=trusts_code(directory), local_files_only=True)


def trusts_code(directory: Path) -> bool:
    """Whether the run that made a model directory asked for the model's own code."""
    return read_record(directory)["provenance"].get("trust_remote_code", False)


def load_limits(directory: Path) -> Limits:
    """The limits of a model directory, without loading its weights."""
    from transformers import GenerationConfig

    config = load_config(directory)
    eos = getattr(config.get_text_config(), "eos_token_id", None)
    if (directory / "generation_config.json").exists():
        eos = GenerationConfig.from_pretrained(directory, local_files_only=True).eos_token_id
    ids = eos if isinstance(eos, list) else [eos]
    return Limits(tuple(i for i in ids if i is not None), positions(config))


def positions(config: "PreTrainedConfig") -> int | None:
    """The longest sequence that a configuration allows, in tokens, by whichever name its architecture gives it."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)  # `n_positions` has this alias
    return found if isinstance(found, int) and found > 0 else None


def device() -> str:
    """Where models run: `$PAIRWRIGHT_DEVICE`, else the first CUDA device, else the CPU."""
    import os

    import torch

    return os.environ.get("PAIRWRIGHT_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
