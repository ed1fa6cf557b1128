"""Summed log-probs of every side of some pairs under a frozen model, one row per (prompt, sample span, eos).

Computed by the code that trains (`Policy.logprobs`: same packing, head and precision), so that at step 0 the policy's
log-probs are these and the DPO loss is log 2; and only where the ledger lacks them (`train.reference_ledger`): a run
with a few pairs more computes these alone. Deliberately absent: gradients, and log-probs from an inference engine,
whose kernels differ. A run with `mismatched` also scores each pair's prompt with the completions of another problem's
pair, from which KTO estimates how far the policy has moved.
"""

from collections.abc import Mapping
from contextlib import closing

import pyarrow as pa

from schemas import ReferenceLogprob
from schemas.sections_training import ReferenceRun
from stores.parquet import rows_to_table
from stores.stage import Stage
from train import parallel
from train.command import source_of, train_stage
from train.data import Pair, Reader, load_pairs
from train.packing import Tokens
from train.reference_ledger import ReferenceLedger, Scored
from train.release import Release
from train.texts import Span


def spans(pairs: list[Pair]) -> dict[Span, Tokens]:
    """What is scored of some pairs: the distinct sides, and completions of other pairs where they have them."""
    return {span: tokens for pair in pairs for span, tokens in pair.scored}


def score(stage: Stage, scored: Mapping[Span, Tokens]) -> Scored:
    """The log-probs of some spans under the model and the settings of a reference run."""
    with closing(ReferenceLedger(stage)) as ledger:
        return ledger.find(scored) or ledger.complete(scored)


def table(scored: Mapping[Span, Tokens], found: Scored) -> pa.Table:
    """The rows of some spans."""
    counts = {span: len(tokens.completion) for span, tokens in scored.items()}
    rows = (
        ReferenceLogprob(**span._asdict(), logprob=logprob, n_tokens=counts[span], fingerprint=found.fingerprint)
        for span, logprob in found.logprobs.items()
    )
    return rows_to_table(ReferenceLogprob, rows)


def run(stage: Stage, release: Release | None = None) -> None:
    config: ReferenceRun = stage.config
    source = source_of(stage, "pairs", config.pairs, release)
    scored = spans(load_pairs(source, Reader.of(stage), mismatched=config.mismatched))
    found = table(scored, score(stage, scored))
    if parallel.leads():
        stage.write(ReferenceLogprob, [found])


if __name__ == "__main__":
    train_stage("reference", run)
