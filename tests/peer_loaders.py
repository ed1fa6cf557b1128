"""The loaders of other trainers on exported directories: `python peer_loaders.py PEER JOBS OUT`.

A program of its own, since the trainers are installed apart from what the tests run with. A job has a directory `dir`,
a `model`, a `table`, and `own`: whether the trainer tokenises the texts itself, not reads our tokens. What it reads is
written as JSON: of each row, for each completion, the ids of the prompt and those that are scored.
"""

import dataclasses
import importlib.machinery
import json
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

os.environ |= {"DISABLE_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
_audio = types.ModuleType("torchaudio")  # LLaMA-Factory imports it, for models that hear
_audio.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
sys.modules["torchaudio"] = _audio

Job = dict[str, Any]
Sides = list[tuple[list[int], list[int]]]
_SHIM = "#!{python}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"


def arguments(job: Job) -> list[str]:
    """What an exported `train.sh` starts its trainer with."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("python3", "torchrun", "deepspeed"):
            shim = Path(scratch) / name
            shim.write_text(_SHIM.format(python=sys.executable))
            shim.chmod(0o755)
        environment = os.environ | {"PATH": f"{scratch}{os.pathsep}{os.environ['PATH']}"}
        command = ["bash", f"{job['dir']}/train.sh", "MODEL", *job.get("more", [])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def split(ids: Any, scored: Any) -> tuple[list[int], list[int]]:
    """Ids and whether each is scored, as what is read and what is scored."""
    ids, scored = [int(i) for i in ids], [bool(s) for s in scored]
    start = scored.index(True) if True in scored else len(ids)
    assert all(scored[start:]), "scored tokens are not at the end"
    return ids[:start], ids[start:]


def trl(job: Job, tokenizer: Any) -> list[Sides]:
    """TRL's own preparation (`own`; else what `train.py` leaves of it) and collator."""
    from datasets import load_dataset

    rows: Any = load_dataset("parquet", data_files=f"{job['dir']}/train.parquet", split="train")
    return trl_demos(job, rows, tokenizer) if job["table"] == "demos" else trl_pairs(job, rows, tokenizer)


def trl_demos(job: Job, rows: Any, tokenizer: Any) -> list[Sides]:
    from trl import SFTConfig, SFTTrainer

    if job["own"]:
        rows = rows.remove_columns([name for name in ("input_ids", "labels") if name in rows.column_names])
    trainer: Any = types.SimpleNamespace(_tokenizer=tokenizer, completion_only_loss=True, chat_template=None)
    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(scratch, max_length=None, report_to=[], use_cpu=True, bf16=False)
        made: Any = list(SFTTrainer._prepare_dataset(trainer, rows, tokenizer, config, False, None, "train"))
    return [[split(row["input_ids"], [i != -100 for i in row["labels"]])] for row in made]


def trl_pairs(job: Job, rows: Any, tokenizer: Any) -> list[Sides]:
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    trainer: Any = types.SimpleNamespace(_tokenizer=tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        config = DPOConfig(scratch, max_length=None, report_to=[], use_cpu=True, bf16=False)
        rows = list(DPOTrainer._prepare_dataset(trainer, rows, tokenizer, config, "train") if job["own"] else rows)
    collate, found = DataCollatorForPreference(pad_token_id=0), []
    for batch in (collate([row]) for row in rows):
        sides = zip(batch["input_ids"], batch["completion_mask"], batch["attention_mask"].sum(1).tolist(), strict=True)
        found.append([split(ids[:n], mask[:n]) for ids, mask, n in sides])
    return found


def llama_factory(job: Job, tokenizer: Any) -> list[Sides]:
    """`get_dataset` with the arguments of `train.yaml`."""
    import yaml
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, FinetuningArguments
    from transformers import Seq2SeqTrainingArguments

    os.chdir(job["dir"])
    settings = yaml.safe_load(Path("train.yaml").read_text()) | job.get("settings", {})
    if job["own"]:
        settings.pop("tokenized_path", None)
    data, tuning = (_known(kind, settings) for kind in (DataArguments, FinetuningArguments))
    training = _known(Seq2SeqTrainingArguments, settings)
    assert set(settings) == {*data, *tuning, *training}, set(settings) - {*data, *tuning, *training}
    with tempfile.TemporaryDirectory() as scratch:
        own = Seq2SeqTrainingArguments(scratch, report_to=[], use_cpu=True, **training)
        model = types.SimpleNamespace(cache_dir=scratch, hf_hub_token=None)
        template = get_template_and_fix_tokenizer(tokenizer, parsed := DataArguments(**data))
        stage = {"dpo": "rm"}.get(FinetuningArguments(**tuning).stage, "sft")  # as `run_dpo` asks for it
        rows = list(get_dataset(template, model, parsed, own, stage, tokenizer)["train_dataset"])
    sides = ["chosen_", "rejected_"] if stage == "rm" else [""]
    return [[split(row[f"{s}input_ids"], [i != -100 for i in row[f"{s}labels"]]) for s in sides] for row in rows]


def _known(kind: Any, settings: Job) -> Job:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in settings.items() if name in names}


def openrlhf(job: Job, tokenizer: Any) -> list[Sides]:
    """`RewardDataset` and `SFTDataset` with the arguments of `train.sh`."""
    from openrlhf.datasets import RewardDataset, SFTDataset
    from openrlhf.datasets.utils import blending_datasets

    options = _options(arguments(job | {"more": ["OUTPUT"]}))
    template = options.get("input_template")
    template = template if template and "{}" in template else None  # as its command line has it
    arguments_ = types.SimpleNamespace(data=types.SimpleNamespace(**options), use_ms=False)
    strategy = types.SimpleNamespace(args=arguments_, print=lambda *_: None, is_rank_0=lambda: False)
    rows, longest = blending_datasets(options["dataset"], None, strategy, 42), int(options["max_len"])
    if job["table"] == "demos":
        made = SFTDataset(rows, tokenizer, longest, strategy, template, num_processors=1)
        shifted = (
            (ids[0], [False, *mask[0].tolist()[:-1]]) for ids, _, mask in map(made.__getitem__, range(len(made)))
        )
        return [[split(ids, mask)] for ids, mask in shifted]  # its mask is of the log-probs, one place before
    made = RewardDataset(rows, tokenizer, longest, strategy, template, is_dpo=True, num_processors=1)
    found = []
    for chosen, _, rejected, _, n in map(made.__getitem__, range(len(made))):
        found.append([(ids[0].tolist()[:n], ids[0].tolist()[n:]) for ids in (chosen, rejected)])
    return found


def _options(given: list[str]) -> Job:
    """Arguments of an OpenRLHF program by their last names, each of which it must know."""
    folder = Path(sys.modules["openrlhf"].__path__[0])
    source = (folder / "cli" / f"{given[1].rpartition('.')[2]}.py").read_text()
    found: Job = {"apply_chat_template": False}
    for word, value in zip(given, [*given[1:], "--"], strict=True):
        if word.startswith("--") and word != "--module":
            assert f'"{word}"' in source, f"{word} is no argument"
            found[word.rpartition(".")[2]] = True if value.startswith("--") else value
    return found


def verl(job: Job, tokenizer: Any) -> list[Any]:
    """Its SFT and RL data sets with the configuration that `train.sh` makes of verl's own."""
    from hydra import compose, initialize_config_dir

    folder, given = str(_verl() / "trainer/config"), arguments(job)
    overrides = [word for word in given if "=" in word and not word.startswith("--")]
    overrides = [word for word in overrides if not (job["own"] and "custom_cls" in word)]
    name = "sft_trainer_engine" if job["table"] == "demos" else "ppo_trainer"
    with initialize_config_dir(folder, version_base=None):
        config: Any = compose(name, overrides=overrides)
    return verl_demos(config.data, tokenizer) if job["table"] == "demos" else verl_prompts(config, tokenizer)


def _verl() -> Path:
    import verl as package

    return Path(package.__path__[0])


def verl_demos(config: Any, tokenizer: Any) -> list[Sides]:
    from verl.trainer.sft_trainer import create_sft_dataset

    made = create_sft_dataset(str(config.train_files), config, tokenizer, None)
    return [[split(row["input_ids"], row["loss_mask"])] for row in (made[i] for i in range(len(made)))]


def verl_prompts(config: Any, tokenizer: Any) -> list[Job]:
    """The prompt as a rollout asks it, what the reward function is given, and the reward of the right answer."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset
    from verl.utils.import_utils import load_extern_object
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    data: Any = OmegaConf.create({name: v for name, v in config.data.items() if not name.endswith("_path")})
    made: Any = RLHFDataset(str(data.train_files), tokenizer, data)
    template: Any = OmegaConf.to_container(data.apply_chat_template_kwargs)
    builder = create_continuous_token_builder(tokenizer, chat_template_kwargs=template)
    reward = load_extern_object(config.reward.custom_reward_function.path, config.reward.custom_reward_function.name)
    found = []
    for row in (made[i] for i in range(len(made))):
        gold, extra = row["reward_model"]["ground_truth"], row["extra_info"]
        scores = [reward(row["data_source"], f" Final answer: {said}", gold, extra) for said in (gold, "1", "none")]
        ids = list(map(int, builder.build_initial_tokens(row["raw_prompt"])))
        found.append({"ids": ids, "source": row["data_source"], "gold": gold, "index": row["index"], "scores": scores})
    return found


LOADERS = {"trl": trl, "llama-factory": llama_factory, "openrlhf": openrlhf, "verl": verl}


def main() -> None:
    from datasets import disable_progress_bars
    from transformers import AutoTokenizer

    disable_progress_bars()
    peer, jobs, out = sys.argv[1], *(Path(name).absolute() for name in sys.argv[2:])
    read = [LOADERS[peer](job, AutoTokenizer.from_pretrained(job["model"])) for job in json.loads(jobs.read_text())]
    out.write_text(json.dumps(read))


if __name__ == "__main__":
    main()
