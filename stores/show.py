"""A pair for a human: prompt, both spans with their verdicts, and where each comes from. Plain text."""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stores.store import Store

Fields = dict[str, Any]

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text with terminal control and text-direction characters written out (`\\x1b`): model output is data."""
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], text)


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
    key = {"run": run, "prompt_id": prompt_id, "rank": rank}
    where = "where run = $run and prompt_id = $prompt_id and rank = $rank"
    pair = _fields(store, f"select * from pair_texts {where}", key)[0]
    sides = {side["side"]: side for side in _fields(store, f"select * from lineage {where}", key)}
    blocks = [
        f"pair {pair['pair_id']} of run {run}: rank {rank} of prompt {prompt_id}",
        *_prompt(pair, sides["chosen"]),
        *(block for side in ("chosen", "rejected") for block in _side(side, pair, sides[side])),
    ]
    return printable("\n".join(blocks))


def _fields(store: "Store", query: str, params: Fields) -> list[Fields]:
    result = store.sql(query, params)
    return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]


def _prompt(pair: Fields, lineage: Fields) -> list[str]:
    if pair["messages"] is None:
        return [_title("prompt (not found: is its run built?)")]
    source = f"{pair['rendering']}, template {lineage['template']}, run {pair['prompt_run']}"
    blocks = [_title(f"prompt ({source})")]
    blocks += [f"[{message['role']}] {message['content']}" for message in pair["messages"]]
    return [*blocks, _title("prefill"), pair["prefill"]] if pair["prefill"] else blocks


def _side(side: str, pair: Fields, of: Fields) -> list[str]:
    ending = " and the end of the sequence" if pair[f"{side}_eos"] else ""
    verdict = of["verdict"] or "no verdict"
    answer = "no answer extracted" if of["extracted"] is None else f"answer {of['extracted']!r}"
    span = f"characters {of['start']}–{of['end']}{ending}"
    text = pair[side] if pair[side] is not None else "(not found: is its run built?)"
    return [_title(f"{side}: {verdict}, {answer}"), text, f"-- {of['sample_id']}, {span}", *_origin(of)]


def _origin(of: Fields) -> list[str]:
    drawn = [f"{name} {of[name]}" for name in ("seed", "temperature", "top_p", "index") if of[name] is not None]
    lines = [f"-- drawn by {of['model']} ({of['model_fingerprint']}): {', '.join(drawn)}; run {of['sample_run']}"]
    if of["extractor"] is not None:
        lines.append(f"-- extracted by {of['extractor']} {of['extractor_version']}; run {of['prediction_run']}")
    if of["checker"] is not None:
        lines.append(
            f"-- checked by {of['checker']} {of['checker_version']}; reward {of['reward']}; run {of['reward_run']}"
        )
    return lines


def _title(text: str) -> str:
    return f"\n── {text} " + "─" * max(0, 76 - len(text))
