"""A model directory: from the Hub, a local path, a configuration that is initialised here, the name of a hosted model,
or a script for tests.

A LoRA adapter's directory is a source too: its base comes from the Hub, or from where the adapter says that it is.
Whatever the source, the directory holds safetensors weights, the configuration and the tokenizer, and
`pairwright.json` with the fingerprint and where it all came from. Nothing is ever unpickled, and no code of a model
is copied or run unless `trust_remote_code` asks for it.
"""

import difflib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders.hub import commit_hash, download
from builders.model_files import ADAPTER, adapter_of, write_record
from schemas.sections import ModelRun
from schemas.slots import NO_FILE
from stores.paths import run_dir
from stores.release_files import PROVENANCE
from stores.stage import Stage, run_stage

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

SCRIPT, HOSTED = "script.json", "hosted.json"
_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
_CODE = ("*.py",)
_ADAPTER_CONFIG, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TOKENIZER = (
    "token*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.jinja",
)
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
_FROM_VOCABULARY = ("vocab_size", "pad_token_id", "eos_token_id", "bos_token_id")


def write_script(directory: Path, completions: list[str]) -> dict[str, Any]:
    """Writes `script.json`, the completions of the `scripted` engine; returns the provenance."""
    text = json.dumps({"completions": completions}, ensure_ascii=False, indent=1)
    (directory / SCRIPT).write_text(text + "\n", encoding="utf-8")
    return {"source": "script"}


def write_hosted(directory: Path, model: str) -> dict[str, Any]:
    """Writes `hosted.json`; returns the provenance. The fingerprint of a hosted model is that of its name."""
    (directory / HOSTED).write_text(json.dumps({"model": model}, indent=1) + "\n", encoding="utf-8")
    return {"source": "hosted", "hosted": model}


def copy_model(source: Path, directory: Path, trust_remote_code: bool, where: str) -> None:
    """Copies the configuration, tokenizer and safetensors of a model directory, and its code only where trusted.

    `where` is the place that an error names. Raises ValueError for a directory that is missing, holds no model, holds
    only pickled weights, or lacks some of its files.
    """
    if not source.is_dir():
        raise ValueError(f"{where}: no model directory at '{source}'; download one there, or use `hub` and `revision`")
    patterns = _FILES + (_CODE if trust_remote_code else ())
    names = {path.name for pattern in patterns for path in source.glob(pattern) if path.is_file()}
    names -= {_ADAPTER_CONFIG, _ADAPTER_WEIGHTS}  # beside a model's own weights, transformers would add the adapter
    names -= {PROVENANCE}  # of a model that was published from here: no part of the model
    _check_model(source, sorted(names), where)
    for name in sorted(names):
        shutil.copyfile(source / name, directory / name)
    if adapter := adapter_of(source):
        copy_adapter(adapter, directory, where)


def copy_adapter(source: Path, directory: Path, where: str) -> None:
    """Copies a LoRA adapter into `adapter/` of a directory that holds its base. `where` is the place an error names.

    An adapter that brings a tokenizer was trained with it: its tokenizer and chat template replace the base's.
    Raises ValueError for adapters of other kinds, and without safetensors weights.
    """
    kind = _adapter_config(source, where).get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{where}: '{source}' is a {kind} adapter, and only LoRA is supported; merge it into its base")
    if not (source / _ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"{where}: '{source}' has no {_ADAPTER_WEIGHTS}; save it with `safe_serialization=True`")
    _check_safetensors(source / _ADAPTER_WEIGHTS, where)
    (directory / ADAPTER).mkdir()
    for name in (_ADAPTER_CONFIG, _ADAPTER_WEIGHTS):
        shutil.copyfile(source / name, directory / ADAPTER / name)
    if (source / "tokenizer_config.json").is_file():
        for path in sorted({path for pattern in _TOKENIZER for path in source.glob(pattern)}):
            shutil.copyfile(path, directory / path.name)


def _adapter_config(source: Path, where: str) -> dict[str, Any]:
    try:
        return json.loads((source / _ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{where}: '{source / _ADAPTER_CONFIG}' is no JSON ({error}); download it again") from None


def _local_base(adapter: Path, root: Path) -> Path:
    """The directory that an adapter names as its base, seen from the project's root."""
    name = _adapter_config(adapter, "path").get("base_model_name_or_path")
    if not name or not (root / name).is_dir():
        raise ValueError(
            f"path: the adapter '{adapter}' is for the base '{name}', and no directory of that name is here;"
            " give the base's `hub` and `revision` beside `path`"
        )
    return root / name


def _check_model(source: Path, names: list[str], where: str) -> None:
    if "config.json" not in names:
        raise ValueError(f"{where}: '{source}' has no config.json; give the directory that `save_pretrained` wrote")
    weights = {name for name in names if name.endswith(".safetensors")}
    if not weights:
        pickled = sorted(path.name for path in source.iterdir() if path.suffix in _PICKLED)
        found = f"only {', '.join(pickled)}, and pickled weights are not loaded" if pickled else "no weights"
        raise ValueError(
            f"{where}: '{source}' has {found}; save it with `save_pretrained(..., safe_serialization=True)`"
        )
    for name in names:
        if name.endswith(".safetensors.index.json"):
            listed = json.loads((source / name).read_text("utf-8"))["weight_map"].values()
            if missing := sorted(set(listed) - weights):
                raise ValueError(f"{where}: '{source}' lacks {missing[0]}, which {name} lists; download it again")
    for name in sorted(weights):
        _check_safetensors(source / name, where)


def _check_safetensors(path: Path, where: str) -> None:
    """Raises ValueError unless the file is whole: an 8-byte length, a header, and as many bytes as the header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if 8 + length <= size else b""
    ends = [entry["data_offsets"][1] for name, entry in json.loads(header or b"{}").items() if name != "__metadata__"]
    if not ends or 8 + length + max(ends) != size:
        raise ValueError(f"{where}: '{path}' is no whole safetensors file; download it again")


def initialise(config: dict[str, Any], texts: Iterable[str], seed: int, directory: Path, where: str) -> dict[str, Any]:
    """Writes a randomly initialised float32 model and a word-level tokenizer made from `texts`; returns the provenance.

    The same configuration, words and seed give the same bytes. `where` is the place that an error names.
    Raises ValueError for a model type, a setting or a value that transformers does not know.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from builders.word_tokenizer import build_tokenizer

    tokenizer = build_tokenizer(texts, config.get("max_position_embeddings"))
    model_config = _model_config(config, tokenizer, where)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = AutoModelForCausalLM.from_config(model_config, dtype=torch.float32)
        except (ValueError, TypeError, RuntimeError, AssertionError) as error:
            raise ValueError(f"{where}: transformers cannot build this model: {' '.join(str(error).split())}") from None
    logging.disable_progress_bar()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return {"source": "config", "config": config, "seed": seed, "parameters": model.num_parameters()}


def _model_config(config: dict[str, Any], tokenizer: "PreTrainedTokenizerFast", where: str) -> "PreTrainedConfig":
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    sizes = dict(config)
    model_type = sizes.pop("model_type", None)
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        hint = _near(str(model_type), MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) or "such as 'llama' or 'qwen3'"
        raise ValueError(f"{where}.model_type: transformers has no causal language model '{model_type}' ({hint})")
    known = set(AutoConfig.for_model(model_type).to_dict()) | set(type(AutoConfig.for_model(model_type)).attribute_map)
    for key in sizes:
        if key in _FROM_VOCABULARY:
            raise ValueError(f"{where}.{key}: this follows from `vocabulary`; remove it")
        if key not in known:
            hint = _near(key, known) or "see the model's configuration class in transformers"
            raise ValueError(f"{where}.{key}: '{model_type}' has no such setting ({hint})")
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    try:
        return AutoConfig.for_model(model_type, **sizes, **ids, vocab_size=len(tokenizer), dtype="float32")
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from None


def _near(name: str, known: Iterable[str]) -> str | None:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean '{near[0]}'?" if near else None


def vocabulary_texts(stage: Stage, problems: str, programs: bool) -> list[str]:
    """Texts whose words a tokenizer made from a problems run knows.

    These are the run's questions and solutions (`programs` too, only if asked for); for generated problems also every
    word that their generator knows, so that a tokenizer made from one set of them covers all others.
    """
    from builders.arithmetic_words import vocabulary

    asked = stage.read("problems", problems, ["source", "question"])
    solutions = stage.read("solutions", problems, ["style", "text"]).to_pylist()
    texts = asked["question"].to_pylist()
    texts += [row["text"] for row in solutions if programs or row["style"] != "program"]
    return texts + (vocabulary(programs) if "arithmetic" in asked["source"].unique().to_pylist() else [])


def build(stage: Stage, directory: Path) -> dict[str, Any]:
    """Fills a model directory as the run's one source says; returns the provenance."""
    config: ModelRun = stage.config
    if config.script is not None:
        return write_script(directory, config.script)
    if config.hosted is not None:
        return write_hosted(directory, config.hosted)
    if config.config is not None:
        return initialise(config.config, _words(stage, config), stage.params.seed, directory, "config")
    if config.path == NO_FILE:
        copy_model(_snapshot(config), directory, config.trust_remote_code, "hub")
        return {"source": "hub", "hub": config.hub, "revision": config.revision}
    source = stage.root / config.path
    if (source / _ADAPTER_CONFIG).is_file() and not (source / "config.json").is_file():
        return _build_adapted(config, source, stage.root, directory)
    if config.hub is not None:
        raise ValueError(f"path: beside `hub`, a LoRA adapter is expected, and '{source}' is none; give one of the two")
    copy_model(source, directory, config.trust_remote_code, "path")
    return {"source": "path", "path": config.path}


def _words(stage: Stage, config: ModelRun) -> list[str]:
    """Texts with the words of a new tokenizer. Those of programs are among them where a template asks for programs."""
    from builders.word_tokenizer import asks_for_programs, template_texts

    programs = asks_for_programs(config.templates)
    return [*vocabulary_texts(stage, config.vocabulary, programs), *template_texts(config.templates)]


def _build_adapted(config: ModelRun, adapter: Path, root: Path, directory: Path) -> dict[str, Any]:
    """An adapter and its base, from the Hub or from where the adapter says."""
    base = _snapshot(config) if config.hub else _local_base(adapter, root)
    if adapter_of(base):
        raise ValueError(f"path: the base '{base}' of the adapter '{adapter}' has one itself; merge that first")
    copy_model(base, directory, config.trust_remote_code, "hub" if config.hub else "path")
    copy_adapter(adapter, directory, "path")
    named = {"hub": config.hub, "revision": config.revision} if config.hub else {"base": base.as_posix()}
    return {"source": "adapter", "path": config.path} | named


def _snapshot(config: ModelRun) -> Path:
    """The files of a Hub model at its pinned revision."""
    assert config.hub is not None
    patterns = _FILES + (_CODE if config.trust_remote_code else ())
    return download(config.hub, "model", commit_hash(config.revision, "revision"), patterns, "hub")


def run(stage: Stage) -> None:
    directory = stage.stage_dir(run_dir("models", stage.name, stage.root))
    provenance = build(stage, directory)
    write_record(directory, provenance | {"trust_remote_code": stage.config.trust_remote_code})


if __name__ == "__main__":
    run_stage("models", run)
