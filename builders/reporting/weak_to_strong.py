"""The part of `metrics.json` about weak supervision: what it recovers, and how right the answers are that replace gold.

Gold is for this report only. It comes from runs of `rewards` and `evaluate`, which compare with gold answers; the
rewards of `rewards_votes` are a majority's, and never taken for gold.
"""

from collections.abc import Collection, Iterator
from typing import Any

from builders.reporting.statistics import Gap, wilson
from builders.reporting.steps import NOT_BUILT
from builders.reporting.views import report_rows, strings
from schemas.params import Params
from schemas.sections_report import WeakToStrong
from schemas.slots import NONE
from stores.duck import Duck

NOTHING_SHARED = "no problems in common"
NO_GAP = "the ceiling is not above the floor"
UNBOUNDED = "the ceiling's lead is not distinguishable from 0"
NOT_MEASURED = "not measured"
WEAK_DEFINITIONS = {
    "PGR": "performance gap recovered: (model - floor) / (ceiling - floor), of greedy accuracies on the problems that "
    "all three answered (arXiv 2312.09390): 0 is the floor, 100 % the ceiling. No number where the ceiling is not above"
    " the floor. Its 95 % interval is Fieller's for a ratio of paired means: it leaves out 0 where the difference to "
    "the floor does, and 100 % where that to the ceiling does; there is none where the ceiling's lead over the floor "
    "is not distinguishable from 0",
    "gold": "for this report alone: verdicts of the run of rewards or evaluate that judged the same samples against "
    "gold answers, never a vote's. Without one the figure is not measured; samples that the checker could not decide "
    "are left out",
    "precision, recall": "of a filter by agreement: share of the kept samples that are right, and share of the right "
    "ones among all compared that are kept; 'before' is the share of all compared samples that are right, 'topped up' "
    "the share of those kept although the answers differ",
    "majority right": "share of the prompts kept at a threshold whose majority answer is right; kept: the majority is "
    "an answer, and at least that share of the samples states it",
    "chosen right, rejected right": "label noise: share of pairs whose chosen (rejected) sample has the gold answer. "
    "Weak chosen: the weak model's sample is the chosen one; own: both sides are the strong model's. Pairs of one "
    "prompt are counted, and their intervals made, as if they were independent",
}


def measure_weak_to_strong(duck: Duck, params: Params) -> dict[str, dict[str, Any]]:
    """`<floor>-to-<ceiling>` -> models, filters, votes and pairs of each block of params' `report.weak_to_strong`."""
    blocks = params.report.weak_to_strong
    built = _built(duck)
    gaps = _gaps(duck, blocks)
    filters = _filters(duck, params, built)
    votes = _votes(duck, params, built)
    pairs = _pairs(duck, params, built)
    return {
        f"{block.floor}-to-{block.ceiling}": {
            "floor": block.floor,
            "ceiling": block.ceiling,
            "models": {name: _gap(block, name, gaps, built["samples"]) for name in block.models},
            "filters": {name: filters[name] for name in block.consistency},
            "votes": {name: votes[name] for name in block.votes},
            "pairs": {name: pairs[name] for name in block.pairs},
        }
        for block in blocks
    }


def gold_of(params: Params, predictions: str, built: Collection[str]) -> str | None:
    """The run that judged these samples against gold: of `evaluate` or of `rewards`, the same predictions' first.

    `built` are the runs of the table rewards that are there, whoever wrote them.
    """
    samples = _samples_of(params, predictions)
    same = [name for name, run in params.rewards.items() if run.predictions == predictions]
    others = [name for name, run in params.rewards.items() if _samples_of(params, run.predictions) == samples]
    evaluated = [name for name in (predictions, samples) if name in params.evaluate]
    return next((name for name in (*same, *evaluated, *others) if name in built), None)


def _samples_of(params: Params, predictions: str) -> str:
    """The run of samples that a run of predictions reads; `evaluate` writes both under one name."""
    run = params.predictions.get(predictions) or params.predictions_import.get(predictions)
    return run.samples if run else predictions


def _built(duck: Duck) -> dict[str, set[str]]:
    """Table -> its runs that are there."""
    found: dict[str, set[str]] = {name: set() for name in ("samples", "rewards", "agreements", "votes", "pairs")}
    for table, run in duck.con.sql('select "table", run from runs').fetchall():
        found.setdefault(table, set()).add(run)
    return found


def _share(n_right: int, n: int) -> dict[str, Any] | None:
    """A share with its interval; None where nothing is judged."""
    if n == 0:
        return None
    ends = [round(end, 6) for end in wilson(n_right, n)]
    return {"n": n, "n_right": n_right, "share": round(n_right / n, 6), "ci95": ends}


def _gaps(duck: Duck, blocks: list[WeakToStrong]) -> dict[tuple[str, str, str], Gap]:
    wanted = [(block.floor, name, block.ceiling) for block in blocks for name in block.models]
    strings(duck, "gaps", ["floor", "model", "ceiling"], list(dict.fromkeys(wanted)))
    runs = ("floor_run", "model_run", "ceiling_run")
    return {tuple(row.pop(run) for run in runs): Gap(**row) for row in report_rows(duck, "gaps")}


def _gap(
    block: WeakToStrong, name: str, gaps: dict[tuple[str, str, str], Gap], built: Collection[str]
) -> dict[str, Any]:
    gap = gaps.get((block.floor, name, block.ceiling))
    if gap is None:
        there = {block.floor, name, block.ceiling}.issubset(built)
        return {"pgr": None, "ci95": None, "reason": NOTHING_SHARED if there else NOT_BUILT}
    interval = gap.interval()
    recovered = gap.recovered
    found = {"n": gap.n} | {side: round(getattr(gap, side) / gap.n, 6) for side in ("floor", "model", "ceiling")}
    return found | {
        "pgr": None if recovered is None else round(recovered, 6),
        "ci95": None if interval is None else [round(end, 6) for end in interval],
        "reason": NO_GAP if recovered is None else UNBOUNDED if interval is None else None,
    }


def _filters(duck: Duck, params: Params, built: dict[str, set[str]]) -> dict[str, dict[str, Any]]:
    """Consistency run -> counts, and for each side accuracy before, precision and recall of what is kept."""
    runs = dict.fromkeys(name for block in params.report.weak_to_strong for name in block.consistency)
    sides = [(name, side, getattr(params.consistency[name], side)) for name in runs for side in ("a", "b")]
    golds = {(name, side): gold_of(params, predictions, built["rewards"]) for name, side, predictions in sides}
    strings(duck, "filters", ["run", "side", "gold"], [(*key, gold or "") for key, gold in golds.items()])
    found: dict[str, dict[str, Any]] = {name: {"verdict": NOT_BUILT} for name in runs}
    for name in built["agreements"].intersection(runs):
        config = params.consistency[name]
        found[name] = {"a": config.a, "b": config.b, "n": 0, "n_agreeing": 0, "n_kept": 0, "sides": {}}
        found[name]["sides"] = {side: _side({}, golds[name, side]) for side in ("a", "b")}
    for row in report_rows(duck, "filters"):
        entry = found[row["run"]]
        entry |= {count: row[count] for count in ("n", "n_agreeing", "n_kept")}
        entry["sides"][row["side"]] = _side(row, golds[row["run"], row["side"]])
    return found


def _side(row: dict[str, int], gold: str | None) -> dict[str, Any]:
    def share(right: str, of: str) -> dict[str, Any] | None:
        return _share(row.get(right, 0), row.get(of, 0))

    return {
        "gold": gold,
        "before": share("n_right", "n_judged"),
        "precision": share("n_kept_right", "n_kept_judged"),
        "recall": share("n_kept_right", "n_right"),
        "topped_up": share("n_topped_up_right", "n_topped_up_judged"),
    } | ({} if gold else {"reason": NOT_MEASURED})


def _votes(duck: Duck, params: Params, built: dict[str, set[str]]) -> dict[str, dict[str, Any]]:
    """Votes run -> prompts kept at each threshold, and how many of their majorities are right."""
    runs = dict.fromkeys(name for block in params.report.weak_to_strong for name in block.votes)
    golds = {name: gold_of(params, params.votes[name].predictions, built["rewards"]) for name in runs}
    strings(duck, "voted", ["run", "gold"], [(name, gold or "") for name, gold in golds.items()])
    found: dict[str, dict[str, Any]] = {
        name: {"gold": gold, "n": 0, "n_no_answer": 0, "thresholds": []} | ({} if gold else {"reason": NOT_MEASURED})
        if name in built["votes"]
        else {"verdict": NOT_BUILT}
        for name, gold in golds.items()
    }
    for row in report_rows(duck, "vote_thresholds"):
        entry = found[row["run"]]
        entry |= {count: row[count] for count in ("n", "n_no_answer")}
        kept = {"threshold": round(row["threshold"], 1), "n_kept": row["n_kept"]}
        entry["thresholds"].append(kept | {"right": _share(row["n_right"], row["n_judged"])})
    return found


def _pairs(duck: Duck, params: Params, built: dict[str, set[str]]) -> dict[str, dict[str, Any]]:
    """Pairs run -> how many chosen and rejected sides are right, in total and by the side that is the weak model's."""
    runs = dict.fromkeys(name for block in params.report.weak_to_strong for name in block.pairs)
    golds = {
        (name, side, predictions): gold_of(params, predictions, built["rewards"])
        for name in runs
        for side, predictions in _sides(params, name)
    }
    strings(duck, "noisy", ["run", "side", "predictions", "gold"], [(*key, gold or "") for key, gold in golds.items()])
    found: dict[str, dict[str, Any]] = {name: {"verdict": NOT_BUILT} for name in runs}
    for name in built["pairs"].intersection(runs):
        gold = {side: run for (of, side, _), run in golds.items() if of == name}
        found[name] = {"gold": gold, "total": _noise({}), "by_case": {}}
        found[name] |= {} if all(gold.values()) else {"reason": NOT_MEASURED}
    for row in report_rows(duck, "label_noise"):
        if row["kind"] is None:
            found[row["run"]]["total"] = _noise(row)
        else:
            found[row["run"]]["by_case"][row["kind"]] = _noise(row)
    return found


def _sides(params: Params, name: str) -> Iterator[tuple[str, str]]:
    """(whose, predictions) of the samples that a run makes pairs of."""
    contrast = params.pairs_contrast.get(name)
    if contrast is None:
        rewards = params.pairs_outcome[name].rewards
        run = params.rewards.get(rewards) or params.rewards_votes.get(rewards)
        yield "strong", run.predictions if run else rewards
        return
    yield "strong", contrast.predictions
    if contrast.weak_predictions != NONE:
        yield "weak", contrast.weak_predictions


def _noise(row: dict[str, int]) -> dict[str, Any]:
    shares = {
        side: _share(row.get(f"n_{side}_right", 0), row.get(f"n_{side}_judged", 0)) for side in ("chosen", "rejected")
    }
    return {"n": row.get("n", 0)} | shares
