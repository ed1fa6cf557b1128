"""LoRA adapters as model directories: base and adapter side by side, merged where the model is loaded."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from builders.model_files import ADAPTER, fingerprint, load_model, load_tokenizer, read_record, write_record
from builders.models import initialise, run
from schemas.params import parse_params
from schemas.slots import NO_FILE
from stores.stage import execute
from tests.hub_server import COMMIT, directory_files, hub_server
from tests.test_models import hub_cache, model_run, params_file

__all__ = ["hub_cache"]  # a fixture

TINY = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
TINY |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}


def write_adapter(base: Path, directory: Path, seed: int = 0, **config: Any) -> None:
    """A LoRA adapter whose matrices are random, so that it changes what the base says."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]} | config
    torch.manual_seed(seed)
    adapted = get_peft_model(load_model(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(str(directory))


@pytest.fixture
def base(workspace: Path) -> Path:
    """A tiny model `base`, and an adapter of it in `adapter`."""
    directory = workspace / "base"
    directory.mkdir()
    initialise(TINY, ["Anna has 3 apples and buys 4 more."], 0, directory, "models.base")
    write_record(directory, {"source": "config"})
    write_adapter(Path("base"), Path("lora"))
    return directory


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 12)[None]).logits


def test_base_and_adapter_are_kept_apart_and_merged_when_loaded(base: Path) -> None:
    params_file({"models": {"m1": model_run(path="lora")}})
    execute("models", "m1", run)
    made = Path("data/models/m1")
    assert directory_files(made / ADAPTER).keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert (made / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    record = read_record(made)
    assert {"model.safetensors", "adapter/adapter_model.safetensors"} <= set(record["files"])
    assert record["provenance"] | {"base": "base", "path": "lora", "source": "adapter"} == record["provenance"]
    applied = logits(PeftModel.from_pretrained(load_model(base), Path("lora")))
    assert torch.allclose(logits(load_model(made)), applied, atol=1e-5)
    assert not torch.allclose(applied, logits(load_model(base)), atol=1e-2)
    assert load_tokenizer(made).get_vocab() == load_tokenizer(base).get_vocab()


def test_the_fingerprint_covers_both(base: Path) -> None:
    write_adapter(Path("base"), Path("other"), seed=1)
    shutil.copytree("base", "base_2")
    config = json.loads((base / "config.json").read_text()) | {"rms_norm_eps": 1e-5}
    Path("base_2/config.json").write_text(json.dumps(config))
    shutil.copytree("lora", "lora_2")
    changed = json.loads(Path("lora/adapter_config.json").read_text()) | {"base_model_name_or_path": "base_2"}
    Path("lora_2/adapter_config.json").write_text(json.dumps(changed))
    names = {"m1": "lora", "m2": "other", "m3": "lora_2", "m4": "base"}
    params_file({"models": {name: model_run(path=path) for name, path in names.items()}})
    for name in names:
        execute("models", name, run)
    assert len({fingerprint(Path("data/models") / name) for name in names}) == 4


def test_a_copy_of_a_model_directory_keeps_its_adapter(base: Path) -> None:
    params_file({"models": {"m1": model_run(path="lora"), "m2": model_run(path="data/models/m1")}})
    execute("models", "m1", run)
    execute("models", "m2", run)
    assert fingerprint(Path("data/models/m2")) == fingerprint(Path("data/models/m1"))


def test_an_adapters_own_tokenizer_replaces_the_bases(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = "{{ messages[0]['content'] }} as trained:"
    tokenizer.save_pretrained("lora")
    params_file({"models": {"m1": model_run(path="lora")}})
    execute("models", "m1", run)
    assert load_tokenizer(Path("data/models/m1")).chat_template == tokenizer.chat_template
    assert load_tokenizer(base).chat_template != tokenizer.chat_template


def test_the_base_comes_from_the_hub(base: Path, hub_cache: pytest.MonkeyPatch) -> None:
    changed = json.loads(Path("lora/adapter_config.json").read_text()) | {"base_model_name_or_path": "owner/tiny"}
    Path("lora/adapter_config.json").write_text(json.dumps(changed))
    params_file({"models": {"m1": model_run(path="lora", hub="owner/tiny", revision=COMMIT)}})
    with hub_server({"models/owner/tiny": directory_files(base)}) as endpoint:
        hub_cache.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        hub_cache.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )
        execute("models", "m1", run)
    provenance = read_record(Path("data/models/m1"))["provenance"]
    assert [provenance[name] for name in ("source", "path", "hub", "revision")] == [
        "adapter", "lora", "owner/tiny", COMMIT,
    ]  # fmt: skip


def no_base(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": "org/model"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))


def another_kind(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"peft_type": "IA3"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))


def pickled(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps({}))


def truncated(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def no_json(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_base, "path: the adapter 'lora' is for the base 'org/model', .* give the base's `hub` and `revision`"),
        (another_kind, "path: 'lora' is a IA3 adapter, and only LoRA is supported; merge it"),
        (pickled, "path: 'lora' has no adapter_model.safetensors; save it"),
        (truncated, "path: 'lora/adapter_model.safetensors' is no whole safetensors file"),
        (no_json, "path: 'lora/adapter_config.json' is no JSON"),
    ],
)
def test_adapters_that_cannot_be_used(base: Path, damage: Any, message: str) -> None:
    damage(Path("lora"))
    params_file({"models": {"m1": model_run(path="lora")}})
    with pytest.raises(ValueError, match=message) as error:
        execute("models", "m1", run)
    assert "\n" not in str(error.value)
    assert not Path("data/models/m1").exists()


def test_an_adapter_on_an_adapter_is_refused(base: Path) -> None:
    params_file({"models": {"m1": model_run(path="lora"), "m2": model_run(path="second")}})
    execute("models", "m1", run)
    write_adapter(Path("data/models/m1"), Path("second"))
    with pytest.raises(ValueError, match=r"the base 'data/models/m1' .* has one itself"):
        execute("models", "m2", run)


def test_beside_a_hub_model_a_path_is_an_adapter(base: Path) -> None:
    params_file({"models": {"m1": model_run(path="base", hub="owner/tiny", revision=COMMIT)}})
    with pytest.raises(ValueError, match="path: beside `hub`, a LoRA adapter is expected, and 'base' is none"):
        execute("models", "m1", run)
    with pytest.raises(ValueError, match=r"exactly one of .* \(have config, path\)"):
        parse_params(Path("params.yaml").read_text().replace("hub: owner/tiny", "config: {model_type: llama}"))
    assert model_run()["path"] == NO_FILE
