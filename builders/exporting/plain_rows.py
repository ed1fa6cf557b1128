"""Rows of samples, rewards and step labels: our own tables, with their run; step labels with the texts of the steps."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from builders.exporting.columns import RENAMED, schema
from builders.exporting.lookups import Found, Lookup, whole
from builders.exporting.rows import Context, Inputs, sliced, window
from builders.exporting.tally import Tally


def sample_rows(context: Context, config: str, run: str, tally: Tally) -> Iterator[pa.Table]:
    """The samples of a run."""
    fields = schema(config)
    for samples, about in Inputs(context, "samples", run, tally).batches():
        tally.count_rows(run, len(samples))
        tally.count_licences(about)
        tally.count_models(samples)
        tally.hash_texts(whole(samples["text_hash"]))
        tally.count_lengths("text", samples["n_chars"])
        yield samples.append_column("run", pa.repeat(run, len(samples))).cast(fields)


def reward_rows(context: Context, config: str, run: str, tally: Tally) -> Iterator[pa.Table]:
    """The verdicts of a run."""
    fields = schema(config)
    for rewards, about in Inputs(context, "rewards", run, tally).batches():
        tally.count_rows(run, len(rewards))
        tally.count_licences(about)
        tally.count_verdicts(run, whole(rewards["sample_id"]), whole(rewards["verdict"]))
        yield rewards.append_column("run", pa.repeat(run, len(rewards))).cast(fields)


def step_label_rows(context: Context, config: str, run: str, tally: Tally) -> Iterator[pa.Table]:
    """The labels of a run with the steps' texts up to the first wrong one; an answer that labels none is left out."""
    inputs = Inputs(context, "step_labels", run, tally)
    prompts, samples = inputs.prompts(), inputs.lookup("samples", ("text", "prompt_id", "text_hash"))
    fields = schema(config)
    for every, known in inputs.batches():
        valid = pc.not_equal(every["verdict"], "invalid")
        tally.left_out["invalid"] += len(every) - (pc.sum(valid).as_py() or 0)
        labels, about = every.filter(valid), known.filter(valid)
        drawn = inputs.rows(samples, "sample", whole(labels["sample_id"]))
        for part in sliced(2 * samples.bytes_of(drawn)):
            few, found = window(labels, part), samples.take(drawn[part])
            steps = [_steps(*row) for row in zip(found.column("text").to_pylist(), few.to_pylist(), strict=True)]
            columns = dict(zip(("completions", "labels"), zip(*steps, strict=True), strict=True))
            columns["prompt"] = _asked(context, inputs, prompts, found, window(about, part))
            tally.count_rows(run, len(few))
            tally.count_licences(window(about, part))
            tally.hash_texts(found.column("text_hash"))
            own = {RENAMED.get(name, name): few[name] for name in few.column_names}
            made = own | columns | {"run": pa.repeat(run, len(few))}
            yield pa.table([_column(made[field.name], field.type) for field in fields], schema=fields)


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind) if isinstance(values, tuple) else values.cast(kind)


def _steps(text: str, row: dict[str, Any]) -> tuple[list[str], list[bool]]:
    """The labelled steps of a sample and whether each is right: all before the first wrong one are."""
    first = row["first_error"]
    spans = row["steps"][: len(row["labels"]) if first is None else first + 1]
    return [text[s["start"] : s["end"]] for s in spans], [number != first for number in range(len(spans))]


def _asked(context: Context, inputs: Inputs, prompts: Lookup, samples: Found, about: pa.Table) -> pa.Array:
    """The rendered prompts of samples; of one that answers no prompt, its problem's question."""
    ids = samples.column("prompt_id")
    known = ids.is_valid()
    found = inputs.found(prompts, "prompt", ids.filter(known))
    rendered = context.renderer.render(found.rows).take(pa.array(found.places))
    return pc.replace_with_mask(whole(about["question"]), known, rendered)
