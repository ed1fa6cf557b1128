"""The content of `metrics.json`: the same tables give the same numbers, in the same order.

Every definition that a reader needs is in `DEFINITIONS`, which the HTML page shows.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from builders.reporting.domains import domain_matrix
from builders.reporting.quality import QUALITY_DEFINITIONS, measure_quality
from builders.reporting.statistics import Paired, wilson
from builders.reporting.steps import NOT_BUILT, STEP_DEFINITIONS, measure_steps
from builders.reporting.views import report_rows, report_sql, strings
from builders.reporting.weak_to_strong import NOTHING_SHARED, WEAK_DEFINITIONS, measure_weak_to_strong
from schemas.params import Params, stage_runs
from stores.duck import Duck

QUANTILES = ("median", "p90", "p99", "max")
GROUPS = ("level", "subject", "steps")
DEFINITIONS = {
    "accuracy": "share of problems whose greedy completion (temperature 0) is correct; an undecided verdict (the "
    "checker timed out or crashed) counts as not correct, and is counted apart in n_undecided",
    "ci95": "95 % Wilson score interval of a share",
    "maj@k": "share of problems where the majority answer of the k sampled completions is correct; completions without "
    "an answer do not vote, ties go to the answer given first",
    "pass@k": "share of problems with at least one correct completion among the k sampled ones; pass@1 is the share of "
    "all sampled completions that are correct",
    "rerank@k": "share of problems where the completion that a reward model is surest of, among the k sampled ones "
    "that state an answer, is correct; ties go to the first. One that it could not read (too long) is not chosen",
    "weighted@k": "share of problems where the answer with the greatest sum of the reward model's scores over the k "
    "sampled completions is correct; ties go to the answer given first",
    "in domain": "the problem set is of the same source (and, for generated problems, the same numbers of steps), or "
    "of one that the other is made of (MetaMathQA: GSM8K and MATH), as problems that the model, or a model that it was "
    "trained from, was trained on in these params; 'out': it is not; a model that was not trained here is neither",
    "by steps": "steps of the human solution: its lines; generated problems: the steps they were made with",
    "fixed, broken": "problems that only the candidate, or only the baseline, solves greedily",
    "difference": "the candidate's accuracy minus the baseline's, in points, on the problems that both answered; its "
    "95 % interval is the mean per-problem difference ± 1.96 standard errors (normal approximation)",
    "p": "exact two-sided McNemar test that fixed and broken problems are equally likely",
    "holds": "the interval lies above 0 and p < 0.05; 'does not hold': it lies below 0 and p < 0.05; "
    "'not distinguishable': neither",
    "saturated": "the iteration gained fewer points than params' report.saturated_below",
    "AUROC": "chance that a random chosen span has a higher reference log-prob than a random rejected one, ties half: "
    "0.5 separates nothing. 'sum' is the summed log-prob that DPO uses, 'per token' divides it by the tokens",
    "pairs ordered": "share of pairs whose chosen span has the higher reference log-prob (the two share a prompt)",
    "verdicts": "of rewards: by gold answers; of rewards_votes: correct is what the majority says",
    "log-prob": "mean over pairs of the summed log-prob of a span under the model in training, in nats",
    **WEAK_DEFINITIONS,
    **STEP_DEFINITIONS,
    **QUALITY_DEFINITIONS,
}


def measure(duck: Duck, params: Params, missing: list[tuple[str, str]]) -> dict[str, Any]:
    """All metrics of what is built (`missing`: what is not), from the views that `open_views` made."""
    duck.execute("create temp table outcomes as " + report_sql("outcomes"))
    models, comparisons = _models(duck, params), _comparisons(duck, params)
    return {
        "models": models,
        "domains": domain_matrix(params, models),
        "iterations": _iterations(params, comparisons),
        "comparisons": comparisons,
        "orders": {key: row["verdict"] for key, row in comparisons.items()},
        "likelihood": _by_run(duck, "likelihood"),
        "weak_to_strong": measure_weak_to_strong(duck, params),
        **measure_steps(duck, params),
        "quality": measure_quality(duck, params),
        "lengths": _lengths(duck),
        "funnel": _funnel(duck, params, missing),
        "not_built": [f"{section}.{name}" for section, name in missing],
    }


def model_order(params: Params) -> list[str]:
    """Names of the evaluated runs: iterations first, then the others as params has them."""
    return list(dict.fromkeys([*params.report.iterations, *params.evaluate]))


def comparison_key(baseline: str, candidate: str) -> str:
    """`<candidate>-vs-<baseline>`; run names have no '-'."""
    return f"{candidate}-vs-{baseline}"


def _by_run(duck: Duck, name: str) -> dict[str, dict[str, Any]]:
    return {row.pop("run"): {k: _rounded(v) for k, v in row.items()} for row in report_rows(duck, name)}


def _lengths(duck: Duck) -> dict[str, dict[str, Any]]:
    """Samples run -> quantiles of its lengths in tokens."""
    rows = {row.pop("run"): row for row in duck.table("select * from token_lengths").to_pylist()}
    return {
        run: {k: dict(zip(QUANTILES, v, strict=True)) if isinstance(v, list) else v for k, v in row.items()}
        for run, row in rows.items()
    }


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


def _share(successes: int, n: int, name: str, interval: str) -> dict[str, Any]:
    return {name: round(successes / n, 6), interval: [round(end, 6) for end in wilson(successes, n)]}


def _models(duck: Duck, params: Params) -> dict[str, dict[str, Any]]:
    counted = {row["run"]: row for row in report_rows(duck, "models")}
    reranked: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in counted}
    for row in report_rows(duck, "reranked"):
        reranked[row["run"]][row["scores"]] = row
    groups = {(name, kind): {} for name in counted for kind in GROUPS}
    for row in report_rows(duck, "groups"):
        share = _share(row["n_correct"], row["n"], "accuracy", "ci95") | {"n": row["n"]}
        groups[row["run"], row["kind"]][row["group"]] = share
    names = [name for name in model_order(params) if name in counted]
    return {
        n: _model(params, n, counted[n])
        | _reranked(params, counted[n], reranked[n])
        | {f"by_{kind}": groups[n, kind] for kind in GROUPS}
        for n in names
    }


def _model(params: Params, name: str, row: dict[str, Any]) -> dict[str, Any]:
    n, k, config = row["n"], row["k"], params.evaluate[name]
    found = {"model": config.model, "fingerprint": row["model_fingerprint"], "problems": config.problems}
    found |= _share(row["n_correct"], n, "accuracy", "ci95")
    found |= {"n": n} | {c: row[c] for c in ("n_correct", "n_wrong", "n_no_answer", "n_undecided", "n_truncated")}
    found |= {"mean_tokens": round(row["n_tokens"] / n, 3), "k": k}
    if k:
        found |= {"pass_1": round(row["n_sampled_correct"] / row["n_sampled"], 6)}
        found |= _share(row["n_majority"], n, f"maj_{k}", f"maj_{k}_ci95")
        if k > 1:
            found |= _share(row["n_passed"], n, f"pass_{k}", f"pass_{k}_ci95")
    return found


def _reranked(params: Params, row: dict[str, Any], scored: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the scores of a model's sampled completions make of them: `rerank_<k>` by the first scores run in params,
    and all of them in `reranking`. Nothing where none is built.
    """
    n, k = row["n"], row["k"]
    runs = [name for name in params.scores if name in scored and k]
    each = {
        name: {"model": params.scores[name].model}
        | _share(scored[name]["n_reranked"], n, "rerank", "rerank_ci95")
        | _share(scored[name]["n_weighted"], n, "weighted", "weighted_ci95")
        for name in runs
    }
    if not runs:
        return {}
    first = each[runs[0]]
    return {f"rerank_{k}": first["rerank"], f"rerank_{k}_ci95": first["rerank_ci95"], "reranking": each}


def _compared(params: Params) -> list[tuple[str, str]]:
    """(baseline, candidate): each iteration with the one before, the last with the first, then those configured."""
    steps = params.report.iterations
    pairs = [*itertools.pairwise(steps), *([(steps[0], steps[-1])] if len(steps) > 2 else [])]
    return list(dict.fromkeys([*pairs, *((c.baseline, c.candidate) for c in params.report.comparisons)]))


def _comparisons(duck: Duck, params: Params) -> dict[str, dict[str, Any]]:
    wanted = _compared(params)
    strings(duck, "compared", ["baseline", "candidate"], wanted)
    counted = {(row.pop("baseline"), row.pop("candidate")): Paired(**row) for row in report_rows(duck, "comparisons")}
    built = {run for (run,) in duck.con.sql("select run from evaluated").fetchall()}
    return {
        comparison_key(*pair): {"baseline": pair[0], "candidate": pair[1]}
        | (_comparison(counted[pair]) if pair in counted else _incomparable(built.issuperset(pair)))
        for pair in wanted
    }


def _incomparable(both_built: bool) -> dict[str, Any]:
    return {"verdict": NOTHING_SHARED if both_built else NOT_BUILT}


def _comparison(paired: Paired) -> dict[str, Any]:
    return {
        "n": paired.n,
        **paired._asdict(),
        "points": round(paired.points, 4),
        "ci95": [round(end, 4) for end in paired.interval()],
        "p": float(f"{paired.p_value:.6g}"),
        "verdict": paired.verdict,
    }


def _iterations(params: Params, comparisons: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Iteration -> its gain over the one before, for the iterations that are built."""
    steps, found = params.report.iterations, {}
    for before, name in itertools.pairwise(steps):
        row = comparisons[comparison_key(before, name)]
        if "points" in row:
            saturated = row["points"] < params.report.saturated_below
            found[name] = {"from": before, "gain_points": row["points"], "ci95": row["ci95"], "saturated": saturated}
    return found


def _funnel(duck: Duck, params: Params, missing: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """One entry per run that is built: rows of its tables, rejects by reason, verdicts."""
    rows = {(table, run): n for table, run, n in duck.con.sql('select "table", run, rows from runs').fetchall()}
    outcomes: dict[tuple[str, str, str], dict[str, int]] = {}
    for r in report_rows(duck, "reasons"):
        outcomes.setdefault((r["kind"], r["stage"], r["run"]), {})[r["outcome"]] = r["n"]

    def entries() -> Iterator[dict[str, Any]]:
        for section, name, run in stage_runs(params):
            if run.writes and (section, name) not in missing:
                tables = {t: rows.get((t, name), 0) for t in run.writes if t != "models"}
                judged = "rewards" if section == "rewards_votes" else section  # SQL counts verdicts by their table
                kinds = {k: outcomes.get((k, s, name), {}) for k, s in (("rejects", section), ("verdicts", judged))}
                yield {"stage": section, "run": name, "rows": tables} | {k: v for k, v in kinds.items() if v}

    return list(entries())
