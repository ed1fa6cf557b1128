"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685), by peft: put into a model, and saved the same wherever they are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from schemas.sections_training import Lora
from train.saving import RUN_AGAIN, disk_errors


def add_adapters(model: PreTrainedModel, lora: Lora, task: str, whole: Sequence[str] = ()) -> Any:
    """Puts adapters into a model; its modules named `whole` are trained themselves."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyrefly: ignore
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type=task,
        modules_to_save=list(whole) or None,
    )
    return get_peft_model(model, config)


def save_adapters(model: Any, directory: Path) -> None:
    """As peft does, but the same on every machine and in every run; the base is named when they are published."""
    model.peft_config["default"].base_model_name_or_path = None
    with disk_errors(directory, RUN_AGAIN):
        model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # a set, whose order changes
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
