"""Summed log-probs of every side of some pairs under a frozen model, one row per (prompt, sample span, eos).

Computed by the code that trains (`Policy.logprobs`: same packing, head and precision), so that at step 0 the policy's
log-probs are these and the DPO loss is log 2. Deliberately absent: gradients, and log-probs from an inference engine,
whose kernels differ. A run with `mismatched` also scores each pair's prompt with the completions of another problem's
pair, from which KTO estimates how far the policy has moved.
"""

import time
from collections.abc import Iterator
from importlib.metadata import version

import pyarrow as pa
import torch

from builders.model_files import fingerprint
from schemas import ReferenceLogprob
from schemas.ids import digest
from schemas.sections_training import ReferenceRun
from stores.parquet import rows_to_table
from stores.progress import progress
from stores.stage import Stage
from train.command import source_of, train_stage
from train.data import Pair, Reader, load_pairs
from train.packing import Tokens
from train.policy import Policy
from train.release import Release
from train.texts import Span


def spans(pairs: list[Pair]) -> dict[Span, Tokens]:
    """What is scored of some pairs: the distinct sides, and completions of other pairs where they have them."""
    return {span: tokens for pair in pairs for span, tokens in pair.scored}


@torch.no_grad()
def build(policy: Policy, scored: dict[Span, Tokens], micro_tokens: int, mark: str) -> Iterator[ReferenceLogprob]:
    """One row per span; `mark` is the fingerprint that all rows carry."""
    keys, sequences = list(scored), list(scored.values())
    with progress("reference log-probs", len(keys), "completions") as bar:
        for numbers in policy.micro_batches([[s] for s in sequences], micro_tokens):
            logprobs = policy.logprobs([sequences[i] for i in numbers]).tolist()
            for i, logprob in zip(numbers, logprobs, strict=True):
                count = len(sequences[i].completion)
                logprob = min(logprob, 0.0)  # rounding may leave a sure token a hair above
                yield ReferenceLogprob(**keys[i]._asdict(), logprob=logprob, n_tokens=count, fingerprint=mark)
            bar.advance(len(numbers))


def score(stage: Stage, scored: dict[Span, Tokens]) -> pa.Table:
    """The rows of a reference run for some spans, by its model and settings."""
    config: ReferenceRun = stage.config
    model = stage.dir("models", config.model)
    policy = Policy.load(model, list(scored.values()), precision=config.precision)
    libraries = [version("torch"), version("transformers")]
    mark = digest([fingerprint(model), config.precision, policy.path, policy.device.type, libraries])
    began = time.perf_counter()
    table = rows_to_table(ReferenceLogprob, build(policy, scored, config.micro_tokens, mark))
    stage.cost.device_s += time.perf_counter() - began
    stage.cost.tokens += sum(tokens.length for tokens in scored.values())
    return table


def run(stage: Stage, release: Release | None = None) -> None:
    config: ReferenceRun = stage.config
    source = source_of(stage, "pairs", config.pairs, release)
    pairs = load_pairs(source, Reader.of(stage), mismatched=config.mismatched)
    stage.write(ReferenceLogprob, [score(stage, spans(pairs))])


if __name__ == "__main__":
    train_stage("reference", run)
