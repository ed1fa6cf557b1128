"""The card of a published model: where it comes from, how it was trained, on what, and how well it answers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from builders.publishing.lineage import Step, data_of, hub_base
from stores.views import settings


class Lineage(NamedTuple):
    """What a card says about a model. `dataset`: the published release that it was trained on, where that is known."""

    run: str
    revision: str
    fingerprint: str
    steps: Sequence[Step]
    licence: str
    sources: Mapping[str, str]
    metrics: Mapping[str, Mapping[str, Any]]
    dataset: str | None
    is_adapter: bool


def model_card(lineage: Lineage, repository: str = "ORG/NAME") -> str:
    """The text of `README.md`."""
    parts = [_heading(lineage), _usage(lineage, repository), _made_from(lineage), *_trained(lineage)]
    parts += [_accuracies(lineage), _licences(lineage)]
    front = yaml.safe_dump(_front_matter(lineage), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(lineage: Lineage) -> dict[str, Any]:
    base, first = hub_base(lineage.steps), lineage.steps[0]
    found: dict[str, Any] = {
        "license": lineage.licence,
        "library_name": "peft" if lineage.is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["reasoning", "pairwright", first.section, *_method(first)],
    }
    if base:
        found |= {"base_model": base[0], "base_model_relation": "adapter" if lineage.is_adapter else "finetune"}
    return found | ({"datasets": [lineage.dataset.partition("@")[0]]} if lineage.dataset else {})


def _method(step: Step) -> list[str]:
    loss = getattr(step.config, "loss", None)
    return [loss.replace("_", "-")] if loss else []


def _heading(lineage: Lineage) -> str:
    return (
        f"# {lineage.run}\n\nMade by Pairwright at Git revision `{lineage.revision}`; model fingerprint"
        f" `{lineage.fingerprint}`. `provenance.json` has all settings."
    )


def _usage(lineage: Lineage, repository: str) -> str:
    if lineage.is_adapter:
        return (
            "A LoRA adapter, not merged:\n\n```python\nfrom peft import AutoPeftModelForCausalLM\n\n"
            f'model = AutoPeftModelForCausalLM.from_pretrained("{repository}")\n```'
        )
    return (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{repository}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{repository}")\n```'
    )


def _made_from(lineage: Lineage) -> str:
    rows = [[step.run, _act(step), _data(step)] for step in reversed(lineage.steps)]
    return "## Made from\n\n" + _table(("model", "made by", "data"), rows)


def _act(step: Step) -> str:
    if step.section != "models":
        return " ".join([step.section, *(f"`{method}`" for method in _method(step))])
    base = hub_base([step])
    return f"[{base[0]}](https://huggingface.co/{base[0]}) at `{base[1][:12]}`" if base else "a local model"


def _data(step: Step) -> str:
    data = data_of(step)
    return f"{data[0]} run `{data[1]}`" if data else ""


def _trained(lineage: Lineage) -> list[str]:
    step = lineage.steps[0]
    if step.section == "models":
        return []
    released = f"Trained on the published data set `{lineage.dataset}`.\n\n" if lineage.dataset else ""
    rows = [[f"`{key}`", str(value)] for key, value in settings("", step.config) if value is not None]
    return [f"## Training\n\n{released}" + _table(("setting", "value"), rows)]


def _accuracies(lineage: Lineage) -> str:
    if not lineage.metrics:
        return ""
    rows = []
    for name, found in lineage.metrics.items():
        sampled = [
            f"{key} {100 * found[key]:.1f} %"
            for key in found
            if key.startswith(("maj_", "rerank_", "pass_")) and "ci95" not in key
        ]
        low, high = (100 * bound for bound in found["ci95"])
        greedy = f"{100 * found['accuracy']:.1f} % ({low:.1f} – {high:.1f})"
        rows.append([name, found["problems"], str(found["n"]), greedy, ", ".join(sampled)])
    return "## Accuracy\n\n" + _table(("evaluation", "problems", "n", "greedy (95 % interval)", "sampled"), rows)


def _licences(lineage: Lineage) -> str:
    text = f"## Licence\n\n`{lineage.licence}`. The licence of the base model applies as well."
    rows = [[f"`{run}`", licence] for run, licence in lineage.sources.items()]
    return text + ("\n\n" + _table(("problems", "licence"), rows) if rows else "")


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        names,
        ["---"] * len(names),
        *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
