"""Any recipe, small: the same runs and references on generated problems and tiny models, for minutes on a CPU.

`shrink` maps a params file (as read from YAML) to such a one. What it keeps: every run, its name and every reference;
templates, rendering, stops, losses, learning rates, checkers. What it replaces:

* sources by generated arithmetic with the same splits, as multiple choice where the template shows options; windows
  (`skip`, `limit`) of one source keep their order and overlaps, so what was held out stays held out;
* models (but scripted ones) by a tiny one which is first fine-tuned on generated gold chains, so that it ends
  completions and is sometimes right: a random one would give no pair. Such a model is a run of `sft` of the same name;
* judges and humans by the rule labeler, which recomputes arithmetic, and corrections, which a rule does not write, by
  samples of the same prompts; files of step pairs by a made-up one (`STEP_PAIRS`);
* what `quality` drops by nothing: generated problems are much alike, and few enough;
* agreement by as many problems as both models answer: tiny ones seldom agree, which leaves nothing to learn from;
  checkers of answers with one ending only by those of the problems' kind, since the models learn a single ending;
* engines (but `scripted`) by `hf`, precision by fp32, and all counts (shots among them) by small ones.
"""

import copy
from collections.abc import Iterator
from typing import Any

from builders import arithmetic
from builders.prompts import load_template
from builders.samples_gold import number_steps
from builders.step_pair_rows import PUBLISHED
from builders.steps import ends_in_marker
from schemas.slots import NO_FILE, NONE

WARMUP = "smoke_warmup"
"""Name of the runs that `shrink` adds: problems, prompts, samples_gold and demos_gold (`_2`, … for other prompts)."""
TOGETHER = "smoke_warmups"
"""Name of the union of their demos, where there are several."""
TINY = "smoke_tiny"
"""Name of the added model that the others are made of."""
STEP_PAIRS = "data/smoke_step_pairs.jsonl"
"""The file that runs of `pairs_import` read in place of their own: `step_pairs` are its rows."""

_TINY_CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 1024, "tie_word_embeddings": True,
}  # fmt: skip
_ARITHMETIC = {"source": "arithmetic", "path": NO_FILE, "steps": [1, 1]}
_OPTIONS = 4
_ONE_ENDING = ("w2s_",)
"""What the names of checkers begin with that read a single ending."""
_WARMUP_PROBLEMS = 1000
_WARMUP_STEPS = 350
_MORE_STEPS = 100
_MAX_NEW_TOKENS = 32

Runs = dict[str, dict[str, Any]]
Raw = dict[str, Any]


def shrink(raw: Raw, problems: int = 20) -> Raw:
    """The params file with every run of `raw` at a size that takes a CPU minutes; `raw` is left as it is.

    `problems` is the least number of problems of each run. Imported samples keep their file, whose rows answer none of
    the generated problems.
    """
    small = copy.deepcopy(raw)
    small["problems"] = _problems(small["problems"], _with_options(small), problems)
    small["quality"] = {name: run | {"drop": []} for name, run in small["quality"].items()}
    small["consistency"] = {name: run | {"top_up": problems} for name, run in small.get("consistency", {}).items()}
    for run in small["predictions"].values():
        if run.get("checker", "").startswith(_ONE_ENDING):
            del run["checker"]
    _replace_labelers(small)
    _replace_models(small)
    longest = _MAX_NEW_TOKENS * (3 if any(map(_asks_for_whole_program, small["prompts"].values())) else 1)
    for run in small["sampling"].values():
        run["max_new_tokens"] = min(run["max_new_tokens"], longest)
    for section, name, run in _runs(small):
        if not name.startswith("smoke_"):
            _reduce(section, run, problems)
    for run in small["prompts"].values():
        if run.get("shots"):
            run["shots"] = 1
        run.pop("named", None)  # of samples that a small copy has not; it draws
    return small


def _runs(raw: Raw) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every (section, name, run) of the stages."""
    for section, runs in raw.items():
        if section not in ("sampling", "report") and isinstance(runs, dict):
            yield from ((section, name, run) for name, run in runs.items())


def _with_options(raw: Raw) -> set[str]:
    """The problems runs that are asked with a template which shows options."""
    return {_origin(raw, run["problems"]) for run in raw["prompts"].values() if _shows_options(run)}


def _origin(raw: Raw, problems: str) -> str:
    """The problems run that those which a run of `quality` kept are of."""
    while problems in raw["quality"]:
        problems = raw["quality"][problems]["problems"]
    return problems


def _shows_options(prompts: dict[str, Any]) -> bool:
    return "{choices}" in load_template(prompts["template"])[0].user


def _replace_labelers(small: Raw) -> None:
    """The rule labels, in place of judges, whose models go, and of humans; models continue where judges correct."""
    used = {run.get("model") for section, _, run in _runs(small) if section != "step_labels"}
    judges = {run["model"] for run in small["step_labels"].values()} - used
    small["models"] = {name: run for name, run in small["models"].items() if name not in judges}
    for run in small["step_labels"].values():
        run |= {"labeler": "rule", "model": NONE, "path": NO_FILE, "neutral_is_error": False}
        run.pop("judge", None)
    for name, run in list(small["samples_corrections"].items()):
        if drawn := small["samples"].get(run["samples"]):
            small["samples"][name] = drawn | {"prompts": run["step_prompts"], "n": 1}
            del small["samples_corrections"][name]
    for run in small["pairs_import"].values():
        run |= {"path": STEP_PAIRS}
        run.pop("revision", None)


def step_pairs(count: int) -> Iterator[dict[str, str]]:
    """Rows in the columns of the published Math-Step-DPO-10K: the second step of generated chains, right and wrong."""
    for problem in arithmetic.generate(0, (2, 2), count):
        first, _, right = number_steps(problem.chain).partition("\nStep 2: ")
        wrong = right.replace("= ", "= 1")
        full = f"{right}\nFinal answer: {problem.answer}", f"{wrong}\nFinal answer: 1{problem.answer}"
        start = f"Let's think step by step.\nStep 1: {first}\nStep 2: "
        values = "arithmetic", problem.question, start, right, wrong, *full, problem.answer
        yield dict(zip(PUBLISHED, values, strict=True))


def _problems(runs: Runs, with_options: set[str], count: int) -> Runs:
    """The runs with generated problems: runs of one source and order are windows of one seed's stream."""
    streams: dict[str, list[str]] = {}
    for name, run in runs.items():
        streams.setdefault(str({key: value for key, value in run.items() if key not in ("skip", "limit")}), []).append(
            name
        )
    found = {}
    for number, names in enumerate(streams.values()):
        cuts, options = _cuts([runs[name] for name in names]), bool(with_options & set(names))
        found |= {name: _generated(runs[name], _seed(number), cuts, count, options) for name in names}
    return {name: found[name] for name in runs}


def _seed(stream: int) -> int:
    """Seeds whose streams share no question as long as there are at most seven; 7 modulo 8 is the warm-up's."""
    return 8 * (stream // 7) + stream % 7


def _cuts(windows: list[dict[str, Any]]) -> list[float]:
    """Where some windows begin and end, in order."""
    return sorted({0.0, *(cut for run in windows for cut in _window(run))})


def _window(run: dict[str, Any]) -> tuple[float, float]:
    start, limit = run.get("skip") or 0, run.get("limit")
    return start, start + limit if limit else float("inf")


def _generated(run: dict[str, Any], seed: int, cuts: list[float], count: int, options: bool) -> dict[str, Any]:
    start, end = (cuts.index(cut) for cut in _window(run))
    window = {"split": run["split"], "seed": seed, "skip": start * count, "limit": (end - start) * count}
    return _ARITHMETIC | window | ({"options": _OPTIONS} if options else {})


def _replace_models(small: Raw) -> None:
    """Models that need a device become short runs of `sft` from one tiny model."""
    replaced = [name for name, run in small["models"].items() if run.get("script") is None]
    if not replaced:
        return
    small["models"] = {n: run for n, run in small["models"].items() if n not in replaced}
    small["sampling"].setdefault("greedy", {"temperature": 0.0, "max_new_tokens": _MAX_NEW_TOKENS})
    warmups = [_add_warmup(small, prompts, number) for number, prompts in enumerate(_layouts(small))]
    if len(warmups) > 1:
        small["demos_union"][TOGETHER] = dict(zip("abcd", [*warmups, *[NONE] * (4 - len(warmups))], strict=True))
    asked = [run["template"] for section in ("prompts", "pairs_import") for run in small[section].values()]
    shipped = sorted({name for name in asked if ":" not in name})
    words = next((name for name in warmups if small["problems"][name].get("options")), WARMUP)  # letters are words too
    small["models"][TINY] = {"path": NO_FILE, "vocabulary": words, "config": _TINY_CONFIG, "templates": shipped}
    demos = TOGETHER if len(warmups) > 1 else WARMUP
    small["sft"] = {name: _warmed(i, demos, len(warmups)) for i, name in enumerate(replaced)} | small["sft"]


def _layouts(small: Raw) -> list[dict[str, Any]]:
    """The first prompts run of each way to ask, at most four (a union has no more)."""
    plain = {"template": "question_answer", "rendering": "text"}
    found: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for run in list(small["prompts"].values()) or [plain]:
        found.setdefault((run["template"], run["rendering"], bool(run.get("shots"))), run)
    return list(found.values())[:4]


def _add_warmup(small: Raw, prompts: dict[str, Any], number: int) -> str:
    """Adds gold chains that are asked for as some prompts are; returns the name of these runs."""
    name = f"{WARMUP}_{number + 1}" if number else WARMUP
    options = {"options": _OPTIONS} if _shows_options(prompts) else {}
    small["problems"][name] = _ARITHMETIC | {"split": "train", "seed": 7, "limit": _WARMUP_PROBLEMS} | options
    demos = dict.fromkeys(("demo_samples", "demo_problems"), name if prompts.get("shots") else NONE)
    small["prompts"][name] = prompts | {"problems": name} | demos
    gold = {"problems": name, "ending": _ending(small, prompts), "model": TINY}
    small["samples_gold"][name] = gold | _form(prompts)
    small["demos_gold"][name] = {"samples": name, "prompts": name}
    return name


def _form(prompts: dict[str, Any]) -> dict[str, Any]:
    """How gold samples are what these prompts ask for: programs, without the head that the prompts give."""
    template = load_template(prompts["template"])[0]
    return {"style": "program", "body": bool(template.prefill)} if template.style == "program" else {}


def _asks_for_whole_program(prompts: dict[str, Any]) -> bool:
    return _form(prompts).get("body") is False


def _ending(small: Raw, prompts: dict[str, Any]) -> str:
    """That of the recipe's own gold samples, if they are numbered as these prompts ask for; else a usual one."""
    if _form(prompts):
        return ""
    numbered = _opens_step(prompts)
    chains = [run for run in small["samples_gold"].values() if run.get("style", "natural") == "natural"]
    own = [run["ending"] for run in chains if run.get("numbered", False) == numbered]
    usual = "\nStep 2: Final answer: {answer}" if numbered else "\nFinal answer: {answer}"
    return own[0] if own else usual


def _opens_step(prompts: dict[str, Any]) -> bool:
    """Whether the given start of the answer opens the first step, so that answers are numbered steps."""
    return ends_in_marker(load_template(prompts["template"])[0].prefill.rstrip())


def _warmed(number: int, demos: str, layouts: int) -> dict[str, Any]:
    """A fine-tuning run that makes a model of the tiny one; each goes on a little longer than the one before."""
    steps = _WARMUP_STEPS + 10 * number + _MORE_STEPS * (layouts - 1)
    optimizer = {"lr": 3.0e-3, "schedule": "cosine", "batch_size": 16, "steps": steps}
    validation = {"prompts": NONE, "problems": NONE, "questions": "none", "labels": "none", "sampling": "greedy"}
    inputs = {"model": TINY, "demos": demos, "watch": NONE, "steps_from": NONE}
    return inputs | {"optimizer": optimizer, "validation": validation}


def _reduce(section: str, run: dict[str, Any], problems: int) -> None:
    """Small numbers in one run, in place."""
    if run.get("engine", "scripted") != "scripted":
        run["engine"] = "hf"
    if "precision" in run:
        run["precision"] = "fp32"
    for key, largest in {"batch_size": 128, "watch_limit": 8, "log_every": 2, "max_pairs": 2 * problems}.items():
        if run.get(key):
            run[key] = min(run[key], largest)
    for key in ("n", "k"):
        if key in run:
            run[key] = _fewer(run[key])
    if section in ("sft", "preference", "ppo", "reward_model") and run["model"] != TINY:
        _reduce_training(run)


def _fewer(count: int) -> int:
    """A small number that still grows with the given one: 1, 2, 2, 3, 5, 8 for 1, 2, 4, 10, 30, 60."""
    return min(count, 2 + count // 10)


def _reduce_training(run: dict[str, Any]) -> None:
    optimizer = run["optimizer"]
    optimizer["batch_size"] = min(optimizer["batch_size"], 4)
    if optimizer.pop("epochs", None) or optimizer.get("steps"):
        optimizer["steps"] = 8 if optimizer.get("steps", 0) > 5000 else 4
    if "validation" in run:
        run["validation"]["every"] = 2
