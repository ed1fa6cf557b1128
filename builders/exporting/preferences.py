"""Rows of pairs, step pairs and demos: prompts and completions first, then where they come from."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from builders.exporting.columns import RENAMED, schema
from builders.exporting.lookups import Found, Lookup, whole
from builders.exporting.rows import Context, Inputs, sliced, window
from builders.exporting.tally import Tally
from builders.exporting.texts import spans, turns
from stores.duck import Duck
from stores.views import PAIR_ID

_SAMPLE = ("text", "n_chars", "text_hash", "model", "model_fingerprint", "finish_reason")
_SIDES = ("chosen", "rejected")


def pair_rows(context: Context, config: str, run: str, tally: Tally) -> Iterator[pa.Table]:
    """The pairs of a run, in the columns of `pairs` or `step_pairs`."""
    inputs = Inputs(context, "pairs", run, tally)
    prompts, samples = inputs.prompts(), inputs.lookup("samples", _SAMPLE)
    answers = inputs.lookup("answers", ("answer",)) if config == "step_pairs" else None
    fields = schema(config, context.conversational)
    with Duck() as duck:
        for pairs, about in inputs.batches():
            asked = inputs.rows(prompts, "prompt", whole(pairs["prompt_id"]))
            ids = pa.concat_arrays([whole(pairs[f"{side}_sample_id"]) for side in _SIDES])
            sides = np.split(inputs.rows(samples, "sample", ids), 2)  # the keys of a group are read once for both
            sizes = 2 * prompts.bytes_of(asked) + sum(2 * samples.bytes_of(rows) for rows in sides)
            for part in sliced(sizes):
                few, known = window(pairs, part), window(about, part)
                found = samples.take(np.concatenate([rows[part] for rows in sides])).halves()  # one pass over groups
                columns = _asked(context, prompts.take(asked[part]), len(few), run, tally)
                columns |= _sides(context, few, found) | {"pair_id": _pair_ids(duck, few)}
                if answers is not None:
                    columns |= _raw(few, found, columns, known, answers)
                _count_pairs(tally, run, few, known, found)
                yield _fitted(columns, few, known, fields)


def demo_rows(context: Context, config: str, run: str, tally: Tally) -> Iterator[pa.Table]:
    """The demos of a run: whole samples."""
    inputs = Inputs(context, "demos", run, tally)
    prompts, samples = inputs.prompts(), inputs.lookup("samples", (*_SAMPLE, "problem_id"))
    fields = schema(config, context.conversational)
    for demos, about in inputs.batches():
        asked = inputs.rows(prompts, "prompt", whole(demos["prompt_id"]))
        drawn = inputs.rows(samples, "sample", whole(demos["sample_id"]))
        for part in sliced(2 * prompts.bytes_of(asked) + 2 * samples.bytes_of(drawn)):
            few, known, found = window(demos, part), window(about, part), samples.take(drawn[part])
            texts = found.column("text")
            columns = _asked(context, prompts.take(asked[part]), len(few), run, tally)
            columns |= {"completion": turns(texts) if context.conversational else texts}
            columns |= {name: found.column(name) for name in ("problem_id", "model", "model_fingerprint")}
            columns |= {"eos": pc.equal(found.column("finish_reason"), "stop")}
            tally.count_rows(run, len(few))
            tally.count_licences(known)
            tally.count_models(found.rows)
            tally.hash_texts(found.column("text_hash"))
            tally.count_lengths("completion", found.column("n_chars"))
            yield _fitted(columns, few, known, fields)


def _fitted(columns: dict[str, pa.Array], few: pa.Table, known: pa.Table, fields: pa.Schema) -> pa.Table:
    """The columns of a config: those made here, else the table's own, else the problem's."""
    tables = {name: whole(table[name]) for table in (known, few) for name in table.column_names}
    return pa.table([(tables | columns)[field.name].cast(field.type) for field in fields], schema=fields)


def _asked(context: Context, prompts: Found, count: int, run: str, tally: Tally) -> dict[str, pa.Array]:
    renderer, places = context.renderer, pa.array(prompts.places)
    rows = prompts.rows
    asked = renderer.conversation(rows) if context.conversational else renderer.render(rows)
    tally.count_templates(rows)
    own = {RENAMED.get(name, name): prompts.column(name) for name in ("messages", "prefill", "rendering", "template")}
    return own | {"prompt": asked.take(places), "run": pa.repeat(run, count)}


def _sides(context: Context, pairs: pa.Table, found: list[Found]) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    for side, samples in zip(_SIDES, found, strict=True):
        starts, ends = (whole(pairs[f"{side}_{edge}"]) for edge in ("start", "end"))
        texts = spans(samples.column("text"), samples.column("n_chars"), starts, ends)
        columns[side] = turns(texts) if context.conversational else texts
        columns |= {f"{side}_{name}": samples.column(name) for name in ("model", "model_fingerprint")}
    return columns


def _raw(
    pairs: pa.Table, found: list[Found], columns: dict[str, pa.Array], known: pa.Table, answers: Lookup
) -> dict[str, pa.Array]:
    """The columns that the authors' code reads."""
    raw = {"initial_reason_steps": columns["prefill"], "question": whole(known["question"])}
    for side, samples in zip(_SIDES, found, strict=True):
        ends = pa.nulls(len(pairs), pa.int32())
        texts, n_chars = samples.column("text"), samples.column("n_chars")
        raw[f"full_{side}"] = spans(texts, n_chars, whole(pairs[f"{side}_start"]), ends)
    rows = answers.find(whole(pairs["problem_id"]))
    gold = answers.take(rows[rows >= 0])
    places = np.zeros(len(rows), np.int64)
    places[rows >= 0] = gold.places
    return raw | {"answer": whole(gold.rows["answer"]).take(pa.array(places, mask=rows < 0))}


def _pair_ids(duck: Duck, pairs: pa.Table) -> pa.Array:
    ids = ["prompt_id", *(f"{side}_{name}" for side in _SIDES for name in ("sample_id", "start", "end"))]
    duck.register("few", pairs.select(ids))
    return whole(duck.table(f"select {PAIR_ID} as pair_id from few")["pair_id"])


def _count_pairs(tally: Tally, run: str, pairs: pa.Table, known: pa.Table, found: list[Found]) -> None:
    tally.count_rows(run, len(pairs))
    tally.count_licences(known)
    tally.hash_texts(*(samples.column("text_hash") for samples in found))
    tally.count_models(found[0].rows)
    for side in _SIDES:
        tally.count_lengths(side, pc.subtract(pairs[f"{side}_end"], pairs[f"{side}_start"]))
