"""A pair for a human: prompt, both spans with their verdicts, and where each comes from. Plain text."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from stores.plain import printable
from stores.sources import run_sources

if TYPE_CHECKING:
    from stores.store import Store

Fields = dict[str, Any]


def show(store: "Store", identity: str, run: str | None = None) -> str:
    """The pair of a pair id, or all pairs of a prompt id, in all runs or one.

    Raises ValueError if there is none.
    """
    column = "prompt_id" if "-" in identity else "pair_id"
    query = f"select run, prompt_id, rank from pairs where {column} = $id and run = coalesce($run, run) order by all"
    found = store.sql(query, {"id": identity, "run": run}).fetchall()
    if not found:
        where = f" in the run '{run}'" if run else ""
        raise ValueError(f"no pair with {column} '{identity}'{where}{_reasons(store, column, identity)}")
    return "\n\n".join(_pair(store, *key) for key in found)


def _reasons(store: "Store", column: str, identity: str) -> str:
    """Why a prompt has no pair."""
    if column == "pair_id":
        return "; `select pair_id, run from pairs` lists them"
    query = "select distinct reason || ' (' || stage || '.' || run || ')' from rejects where prompt_id = ? order by 1"
    reasons = ", ".join(reason for (reason,) in store.sql(query, [identity]).fetchall())
    return f"; rejects: {reasons}" if reasons else ""


def _pair(store: "Store", run: str, prompt_id: str, rank: int) -> str:
    """Looks each row up by its id: on a large store the joined views would read whole columns for one pair."""
    query = "select * from pairs where run = ? and prompt_id = ? and rank = ?"
    (pair,) = _fields(store, query, [run, prompt_id, rank])
    blocks = [
        f"pair {pair['pair_id']} of run {run}: rank {rank} of prompt {prompt_id}",
        *_prompt(_behind(store, pair, "prompts", "prompt_id", prompt_id)),
        *_side(store, pair, "chosen"),
        *_side(store, pair, "rejected"),
    ]
    return printable("\n".join(blocks))


def _fields(store: "Store", query: str, params: Sequence[Any]) -> list[Fields]:
    result = store.sql(query, params)
    return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]


def _behind(store: "Store", pair: Fields, table: str, column: str, identity: str) -> Fields:
    """The row of another table that a pair refers to; empty if it is in none of the runs behind the pair."""
    found = _all_behind(store, pair, table, column, identity)
    return found[0] if found else {}


def _all_behind(store: "Store", pair: Fields, table: str, column: str, identity: str) -> list[Fields]:
    runs = [s.input_run for s in run_sources(store.params) if s[:3] == ("pairs", pair["run"], table)]
    query = f"select * from {table} where {column} = ? and list_contains(?, run) order by run"
    return _fields(store, query, [identity, runs]) if runs else []


def _prompt(prompt: Fields) -> list[str]:
    if not prompt:
        return [_title("prompt (not found: is its run built?)")]
    blocks = [_title(f"prompt ({prompt['rendering']}, template {prompt['template']}, run {prompt['run']})")]
    blocks += [f"[{message['role']}] {message['content']}" for message in prompt["messages"]]
    return [*blocks, _title("prefill"), prompt["prefill"]] if prompt["prefill"] else blocks


def _side(store: "Store", pair: Fields, side: str) -> list[str]:
    identity, start, end = pair[f"{side}_sample_id"], pair[f"{side}_start"], pair[f"{side}_end"]
    sample, prediction, reward = (
        _behind(store, pair, table, "sample_id", identity) for table in ("samples", "predictions", "rewards")
    )
    answer = prediction.get("extracted")
    verdict = reward.get("verdict", "no verdict")
    return [
        _title(f"{side}: {verdict}, {'no answer extracted' if answer is None else f'answer {answer!r}'}"),
        sample["text"][start:end] if sample else "(not found: is its run built?)",
        f"-- {identity}, characters {start}–{end}{' and the end of the sequence' if pair[f'{side}_eos'] else ''}",
        *_origin(sample, prediction, reward),
        *map(_label, _all_behind(store, pair, "step_labels", "sample_id", identity)),
    ]


def _label(label: Fields) -> str:
    """What a labeler says of the sample's steps."""
    found = {"no_error": "no step is wrong", "invalid": "an invalid answer"}
    said = found.get(label["verdict"]) or f"step {label['first_error'] + 1} is the first wrong one"
    who = ", ".join([label["kind"], *([label["template"]] if label["template"] else [])])
    return f"-- {said}, says {label['labeler']} ({who}); run {label['run']}"


def _origin(sample: Fields, prediction: Fields, reward: Fields) -> Iterator[str]:
    if sample:
        how = [
            f"{name} {sample[name]}" for name in ("seed", "temperature", "top_p", "index") if sample[name] is not None
        ]
        yield f"-- drawn by {sample['model']} ({sample['model_fingerprint']}): {', '.join(how)}; run {sample['run']}"
    if prediction:
        extractor = f"{prediction['extractor']} {prediction['extractor_version']}"
        yield f"-- extracted by {extractor}; run {prediction['run']}"
    if reward:
        checker = f"{reward['checker']} {reward['checker_version']}"
        yield f"-- checked by {checker}; reward {reward['reward']}; run {reward['run']}"


def _title(text: str) -> str:
    return f"\n── {text} " + "─" * max(0, 76 - len(text))
