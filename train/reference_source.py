"""Reference log-probs of a run's pairs: the rows of the table, or for a release computed when it is trained on.

What is computed is kept in the ledger (`train.reference_ledger`), so that a run which starts again, or another on the
same pairs, does not compute it again.
"""

import sys
from contextlib import closing

import pyarrow as pa

from schemas.sections_training import ReferenceRun
from schemas.slots import NONE
from stores.paths import run_dir
from stores.stage import Stage
from train.data import Pair, Reader, load_pairs
from train.packing import Tokens
from train.reference import spans
from train.reference_ledger import ReferenceLedger
from train.texts import Source, Span

References = dict[Span, float]
_TABLE = "reference_logprobs"


def references_of(stage: Stage, pairs: list[Pair], release: Source | None) -> References:
    """The log-probs that a run's loss compares its pairs with, in their order; none where its loss has no reference.

    `release`: where the pairs come from, if not from the workspace.
    """
    if stage.config.reference == NONE:
        return {}
    found = read_references(stage, pairs) if release is None else find_references(stage, release, pairs)
    return {span: found[span] for span in spans(pairs)}


def read_references(stage: Stage, pairs: list[Pair]) -> References:
    """Summed log-prob of each side of the pairs under the reference model, in nats, from the run's table.

    Raises ValueError if the table lacks one.
    """
    run = stage.config.reference
    _say_which_model(stage)
    found = {span: logprob for span, (logprob, _) in _numbers(stage.read(_TABLE, run)).items()}
    for pair in pairs:
        for span, _ in pair.scored:
            if span not in found:
                raise ValueError(
                    f"{pair.name}: reference_logprobs run '{run}' has no row for sample {span.sample_id}; let"
                    f" reference.{run}.pairs be '{stage.config.pairs}' and run `dvc repro`"
                )
    return found


def find_references(stage: Stage, source: Source, pairs: list[Pair]) -> References:
    """The same for pairs of a release: from the table if it is there and of these texts; else from the ledger.

    What that lacks is computed first, and equals what `train.reference` would write.
    """
    _say_which_model(stage)
    place, run = f"{stage.section} {stage.name}", stage.config.reference
    own = Stage("reference", run, stage.root, stage.params)
    config: ReferenceRun = own.config
    if (config.model, config.mismatched) != (stage.config.model, stage.config.mismatched):
        pairs = load_pairs(source, Reader.of(own), mismatched=config.mismatched)
    scored = spans(pairs)
    table, why = run_dir(_TABLE, run, stage.root), "is not there"
    if table.is_dir():
        found = _numbers(stage.read(_TABLE, run))
        if _is_of(found, scored):
            return {span: logprob for span, (logprob, _) in found.items()}
        why = "is of other texts"
    own.cost = stage.cost
    with closing(ReferenceLedger(own)) as ledger:
        if (kept := ledger.find(scored)) is None:
            known = f"{table.relative_to(stage.root)} {why}"
            count = f"the log-probs of {len(scored):,} completions"
            print(f"{place}: {known}: computes {count} under '{config.model}' first", file=sys.stderr)
            kept = ledger.complete(scored)
    return kept.logprobs


def _is_of(found: dict[Span, tuple[float, int]], scored: dict[Span, Tokens]) -> bool:
    """Whether a table has all spans, of as many tokens: ids of texts that were drawn elsewhere may be the same."""
    return all(span in found and found[span][1] == len(tokens.completion) for span, tokens in scored.items())


def _numbers(table: pa.Table) -> dict[Span, tuple[float, int]]:
    """Log-prob and number of tokens of each span of some reference rows."""
    rows = table.select([*Span._fields, "logprob", "n_tokens"]).to_pylist()
    return {Span(*key): (logprob, count) for *key, logprob, count in map(dict.values, rows)}


def _say_which_model(stage: Stage) -> None:
    reference, start_model = stage.params.reference[stage.config.reference].model, stage.config.model
    if reference != start_model:
        print(
            f"{stage.section} {stage.name}: trains from model '{start_model}' with log-probs of '{reference}' as its"
            " reference: legal, but DPO starts where its reference is",
            file=sys.stderr,
        )
