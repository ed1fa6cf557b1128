"""The report as one HTML page that needs no network: styles and plots are inside it."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from builders.reporting import quality, step_tables, tables, weak_tables
from builders.reporting.markup import Markup, fragment, inline_svg, interval_bar, table, tag
from builders.reporting.metrics import DEFINITIONS, comparison_key
from builders.reporting.voting_tables import voting_table
from schemas.params import Params

LONGEST = 2_000
"""Code points of a text that the page shows."""

CAPTIONS = {
    "accuracy_by_iteration": "Greedy accuracy with its 95 % interval, and the majority of the k sampled completions.",
    "logprobs": "Mean summed log-prob of the chosen and the rejected completions during training: of a step's "
    "batch (preference; the last point: at most 128 evenly spaced training pairs) or of the watched pairs (sft). Plain "
    "DPO may let the chosen one fall; the NLL term keeps it up (Iterative RPO, figures 2 to 4).",
    "validation": "Greedy accuracy on the validation problems during training; the best checkpoint is kept.",
    "rollouts": "What `ppo` drew at each logged step, before it learnt from it: correct ones, their summed KL from the "
    "model that training started from (k1), and the mean entropy of a token.",
}


class Contents(NamedTuple):
    """Everything that the page shows. `examples` and `labelled` are rows of `sql/examples.sql` and
    `sql/labelled_examples.sql`.
    """

    params: Params
    metrics: dict[str, Any]
    costs: dict[str, Any]
    plots: dict[str, str]
    examples: list[dict[str, Any]]
    labelled: list[dict[str, Any]]


def render(contents: Contents) -> str:
    """The page. Sections without content are left out; what is not built is named."""
    metrics = contents.metrics
    sections = {
        "Models": _models(metrics["models"]),
        "Iterations": tables.iteration_table(contents.params, metrics),
        "Comparisons": tables.comparison_table(metrics["comparisons"]),
        "Voting and reranking": voting_table(metrics["models"]),
        "Weak to strong": weak_tables.weak_tables(metrics["weak_to_strong"]),
        "Plots": _plots(contents.plots),
        "Problem sets": tables.domain_table(metrics["domains"]),
        "Accuracy by steps": tables.group_table(metrics["models"], "steps"),
        "Accuracy by level": tables.group_table(metrics["models"], "level"),
        "Accuracy by subject": tables.group_table(metrics["models"], "subject"),
        "Quality of problems": quality.quality_tables(metrics["quality"]),
        "Token lengths": tables.length_table(metrics["lengths"]),
        "Likelihood": tables.likelihood_table(metrics["likelihood"]),
        "Judging of pairs": step_tables.judging_table(metrics["judging"]),
        "Step labels": step_tables.label_table(metrics["step_labels"]),
        "Audits": step_tables.audit_table(metrics["audits"]),
        "Right answers with a wrong step": step_tables.wrong_step_table(
            metrics["wrong_steps"], metrics["wrong_steps_logged"]
        ),
        "Calibration": step_tables.calibration_table(metrics["calibrations"]),
        "Funnel": tables.funnel_table(metrics["funnel"]),
        "Cost": tables.cost_table(contents.costs),
        "Example pairs": _examples(contents.examples),
        "Labelled steps": step_tables.labelled_examples(contents.labelled, LONGEST),
        "Not built": _not_built(metrics["not_built"]),
        "Params": _params(contents.params),
        "Definitions": _definitions(),
    }
    return _page(_lead(contents.params, metrics), {title: body for title, body in sections.items() if body})


def _page(lead: Markup, sections: dict[str, Markup]) -> str:
    style = Markup((Path(__file__).parent / "page.css").read_text(encoding="utf-8"))
    links = [tag("a", title, href=f"#{_anchor(title)}") for title in sections]
    body = [tag("section", tag("h2", title), text, id=_anchor(title)) for title, text in sections.items()]
    head = tag(
        "head", Markup('<meta charset="utf-8">'), _viewport(), tag("title", "Pairwright report"), tag("style", style)
    )
    nav = tag("nav", *links)
    page = tag("html", head, tag("body", tag("h1", "Pairwright report"), lead, nav, *body), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _viewport() -> Markup:
    return Markup('<meta name="viewport" content="width=device-width, initial-scale=1">')


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _lead(params: Params, metrics: dict[str, Any]) -> Markup:
    """What a reader must know first: how far the iterations came."""
    steps, models = params.report.iterations, metrics["models"]
    if not models:
        return tag("p", "No model is evaluated yet.", class_="lead")
    total = metrics["comparisons"].get(comparison_key(steps[0], steps[-1]), {}) if len(steps) > 1 else {}
    if "points" not in total:
        return tag("p", f"{len(models)} evaluated models.", class_="lead")
    first, last = models[steps[0]]["accuracy"], models[steps[-1]]["accuracy"]
    change = f"{steps[0]} → {steps[-1]}: {tables.percent(first)} → {tables.percent(last)} greedy accuracy, "
    interval = tables.points(total["points"], total["ci95"])
    return tag("p", change, interval, f" points on {total['n']:,} problems.", class_="lead")


def _models(models: dict[str, dict[str, Any]]) -> Markup:
    if not models:
        return Markup()
    ends = [end for m in models.values() for end in m["ci95"]]
    scale = (min(ends), max(ends))
    sizes = {m["k"] for m in models.values() if m["k"]}
    k = str(*sizes) if len(sizes) == 1 else "k"
    shares = {f"maj@{k}": "maj_{k}", "pass@1": "pass_1", f"pass@{k}": "pass_{k}"}  # of one sample, two are the same
    header = ["model", "accuracy", "95 % interval", "", *shares, "problems", "no answer",
              "undecided", "truncated", "tokens"]  # fmt: skip
    rows = [_model(name, m, scale, list(shares.values())) for name, m in models.items()]
    note = "Accuracy is greedy; tokens: mean length of a greedy completion."
    if len(sizes) > 1:
        note += " k: " + ", ".join(f"{name} {m['k']}" for name, m in models.items()) + "."
    problems = sorted({m["problems"] for m in models.values()})
    if len(problems) > 1:
        note += f" The models were evaluated on different problems: {', '.join(problems)}."
    return fragment(table(header, rows), tag("p", note, class_="note"))


def _model(name: str, m: dict[str, Any], scale: tuple[float, float], keys: list[str]) -> list[object]:
    low, high = m["ci95"]
    shares = [tables.percent(m.get(key.format(k=m["k"]))) for key in keys]
    counts = [f"{m[key]:,}" for key in ("n", "n_no_answer", "n_undecided", "n_truncated")]
    interval = tag("span", f"{100 * low:.1f} – {100 * high:.1f}", class_="range")
    bar = interval_bar(m["accuracy"], low, high, scale)
    strong = tag("strong", tables.percent(m["accuracy"]))
    return [name, strong, interval, bar, *shares, *counts, f"{m['mean_tokens']:.0f}"]


def _plots(plots: dict[str, str]) -> Markup:
    figures = [
        tag("figure", inline_svg(name, svg), tag("figcaption", CAPTIONS[name]), class_=name)
        for name, svg in plots.items()
    ]
    return tag("div", *figures, class_="plots") if plots else Markup()


def _examples(examples: list[dict[str, Any]]) -> Markup:
    return fragment(*(_example(row) for row in examples))


def _example(row: dict[str, Any]) -> Markup:
    asked = "\n\n".join(f"[{m['role']}] {m['content']}" for m in row["messages"] or [])
    if row["prefill"]:
        asked += f"\n\n[start of the answer] {row['prefill']}"
    cells = [tag("div", tag("h4", "prompt"), _text(asked), class_="asked")]
    for side in ("chosen", "rejected"):
        heading = f"{side} ({row[f'{side}_model'] or 'sample not found'})"
        cells.append(tag("div", tag("h4", heading), _text(row[side])))
    title = tag("h3", f"{row['run']} · {row['prompt_id']}")
    return fragment(title, tag("div", *cells, class_="pair"))


def _text(text: str | None) -> Markup:
    text = text or ""
    more = len(text) - LONGEST
    return tag("pre", text[:LONGEST] + (f"\n… {more:,} more characters" if more > 0 else ""))


def _not_built(names: list[str]) -> Markup:
    if not names:
        return Markup()
    remedy = tag(
        "p", "params names these runs, but their tables are not there; ", tag("code", "dvc repro"), " builds them."
    )
    return fragment(remedy, tag("ul", *(tag("li", name) for name in names)))


def _params(params: Params) -> Markup:
    given = yaml.safe_dump(params.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    return tag("details", tag("summary", "The params that this report was made from"), tag("pre", given))


def _definitions() -> Markup:
    return tag("dl", *(fragment(tag("dt", term), tag("dd", text)) for term, text in DEFINITIONS.items()))
