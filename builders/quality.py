"""`quality`: what is wrong with a run's problems, and a run of those that are kept. It reads no answers.

Findings: exact duplicates (by normalised text) and near-duplicates (MinHash LSH, then the exact Jaccard similarity),
each within the run and against test sets, and n-grams shared with test sets. Of several problems in the run that are
alike the first by id stays. Each problem has at most one finding per kind and other run. Where `drop` says so, findings
become rejects (`duplicate`, `near_duplicate`, `contaminated`); kept problems + rejects = problems read.

Texts are read and sketched on all cores; what is kept of each takes about half a kilobyte of memory.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from builders.overlap.copies import Found, contaminated, copies
from builders.overlap.shared import index
from builders.overlap.sketches import Array, Bands, Sketches, bands_for, joined, sketch
from builders.overlap.words import tokens, words
from builders.parallel import by_range
from schemas import Finding, Problem, TextStatistics, arrow_schema
from schemas.findings import FindingReason
from schemas.sections_quality import QualityRun
from stores.parquet import sort_table
from stores.stage import Stage, run_stage

_COLUMNS = ("problem_id", "source", "question", "choices")
_RANK: tuple[FindingReason, ...] = ("duplicate", "near_duplicate", "contaminated")
"""The reason of a reject is the first of these for which it is dropped."""
_QUANTILES = {"median": 0.5, "p90": 0.9, "max": 1.0}


def run(stage: Stage) -> None:
    """Writes the kept problems, the findings and the statistics of one run."""
    config: QualityRun = stage.config
    bands = bands_for(config.similarity)
    tests = {name: joined([*_sketches(stage, name, bands)]) for name in config.against.runs}
    own, found = _examined(stage, config, bands, tests)
    rows = sort_table(Finding, pa.concat_tables([_rows(stage, one, own, tests) for one in found]))
    dropped = rejects(rows)
    stage.reject(dropped)
    kept = stage.write(Problem, _kept(stage.scan("problems", config.problems), dropped["problem_id"]))
    stage.write(Finding, [rows])
    stage.write_rows(TextStatistics, statistics(config.problems, own, tests, dropped, found))
    assert kept + len(dropped) == len(own.ids), "a problem was lost"


def _sketches(stage: Stage, problems: str, bands: Bands) -> Iterator[Sketches]:
    """The sketches of a run, in parts that come in order."""
    yield sketch([], [], [], bands)
    yield from by_range(partial(_sketched, problems=problems, bands=bands), stage, stage.rows("problems", problems))


def _sketched(stage: Stage, problems: str, bands: Bands) -> Iterator[Sketches]:
    for batch in stage.scan("problems", problems, _COLUMNS):
        yield sketch(batch["problem_id"].to_pylist(), _texts(batch), batch["source"].to_pylist(), bands)


def _texts(batch: pa.Table) -> list[str]:
    """Questions with their options, without which a short question may not be the one that it is."""
    rows = zip(batch["question"].to_pylist(), batch["choices"].to_pylist(), strict=True)
    return ["\n".join([question, *(choices or ())]) for question, choices in rows]


def _examined(
    stage: Stage, config: QualityRun, bands: Bands, tests: Mapping[str, Sketches]
) -> tuple[Sketches, list[Found]]:
    """The run's sketches, and all findings. Words are needed for n-grams alone, so they go when these are found."""
    grams = {name: index(of_test, config.ngram) for name, of_test in tests.items()}
    parts, found, at = list[Sketches](), list[Found](), 0
    for part in _sketches(stage, config.problems, bands):
        found += contaminated(part, at, grams, tests, config.coverage)
        parts.append(part._replace(words=part.words[:0]))
        at += len(part.ids)
    own = joined(parts)
    return own, [*copies(config.problems, own, tests, config.similarity), *found]


def _rows(stage: Stage, found: Found, own: Sketches, tests: Mapping[str, Sketches]) -> pa.Table:
    """Rows of `findings`, in no order."""
    config: QualityRun = stage.config
    other_ids = tests.get(found.other_run, own).ids[found.other]
    reason = "contaminated" if found.other_run in tests else found.kind
    columns = {
        "problem_id": _strings(own.ids[found.text]),
        "other_problem_id": _strings(other_ids),
        "similarity": np.round(found.similarity, 6),
        "passage": _passages(stage, found, other_ids),
    }
    same = {"kind": found.kind, "other_run": found.other_run, "reason": reason, "dropped": reason in config.drop}
    columns |= {name: pa.repeat(value, len(found.text)) for name, value in same.items()}
    schema = arrow_schema(Finding)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _strings(ids: Array) -> pa.Array:
    return pa.array(ids.astype("U16"), pa.string())


def _passages(stage: Stage, found: Found, other_ids: Array) -> list[str | None]:
    """The longest shared passage of each finding, as words of the other problem."""
    if found.kind != "shared_ngram" or not len(found.text):
        return [None] * len(found.text)
    wanted, said = pa.array(np.unique(other_ids).astype("U16")), dict[str, list[str]]()
    for batch in stage.scan("problems", found.other_run, _COLUMNS):
        rows = batch.filter(pc.is_in(batch["problem_id"], wanted))
        texts = zip(rows["problem_id"].to_pylist(), _texts(rows), strict=True)
        said |= {identity: words(tokens(text)) for identity, text in texts}
    places = zip(other_ids.astype("U16").tolist(), found.start.tolist(), found.length.tolist(), strict=True)
    return [" ".join(said[identity][start : start + length]) for identity, start, length in places]


def rejects(findings: pa.Table) -> pa.Table:
    """One reject per problem that is dropped, from sorted findings."""
    rows = findings.filter(findings["dropped"])
    ids, reasons = rows["problem_id"].to_numpy(zero_copy_only=False), rows["reason"].to_pylist()
    order = np.lexsort((np.array([_RANK.index(reason) for reason in reasons], np.int64), ids.astype("U16")))
    ranked = ids[order]
    first = rows.take(order[np.append(True, ranked[1:] != ranked[:-1])] if len(order) else order)
    details = [
        f"{row['kind']} of {row['other_problem_id']} in {row['other_run']} ({row['similarity']:.2f})"
        for row in first.select(["kind", "other_problem_id", "other_run", "similarity"]).to_pylist()
    ]
    nothing = pa.nulls(len(first), pa.string())
    columns = {"problem_id": first["problem_id"], "prompt_id": nothing, "sample_id": nothing}
    return pa.table(columns | {"reason": first["reason"], "detail": pa.array(details, pa.string())})


def _kept(batches: Iterable[pa.Table], dropped: pa.ChunkedArray) -> Iterator[pa.Table]:
    gone = dropped.combine_chunks()
    for batch in batches:
        yield batch.filter(pc.invert(pc.is_in(batch["problem_id"], gone)))


def statistics(
    name: str, own: Sketches, tests: Mapping[str, Sketches], dropped: pa.Table, found: Sequence[Found]
) -> Iterator[TextStatistics]:
    """Lengths by run, source and language. What is dropped or unsure is of the run that is examined."""
    gone = np.isin(own.ids, np.array(dropped["problem_id"].to_pylist(), "S16"))
    unsure = np.isin(np.arange(len(own.ids)), np.concatenate([one.unsure for one in found]))
    yield from _of_run(name, own, gone, unsure)
    for test, of_test in tests.items():
        none = np.zeros(len(of_test.ids), bool)
        yield from _of_run(test, of_test, none, none)


def _of_run(name: str, run: Sketches, gone: Array, unsure: Array) -> Iterator[TextStatistics]:
    groups, member = np.unique(np.char.add(np.char.add(run.sources, "\x1f"), run.languages), return_inverse=True)
    n_words = np.diff(run.word_ends, prepend=0)
    for at, group in enumerate(groups.tolist()):
        source, _, language = group.partition("\x1f")
        of_group = np.flatnonzero(member == at)
        lengths = _lengths("chars", run.chars[of_group]) | _lengths("words", n_words[of_group])
        counts = {"n": len(of_group), "n_dropped": int(gone[of_group].sum()), "n_unsure": int(unsure[of_group].sum())}
        named = {"problems_run": name, "source": source, "language": language}
        yield TextStatistics.model_validate(named | counts | lengths)


def _lengths(what: str, values: Array) -> dict[str, int]:
    return {f"{what}_{name}": int(np.quantile(values, q, method="lower")) for name, q in _QUANTILES.items()}


if __name__ == "__main__":
    run_stage("quality", run)
