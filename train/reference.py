"""Summed log-probs of every side of some pairs under a frozen model, one row per (prompt, sample span, eos).

Computed by the code that trains (`Policy.logprobs`: same packing, head and precision), so that at step 0 the policy's
log-probs are these and the DPO loss is log 2. Deliberately absent: gradients, and log-probs from an inference engine,
whose kernels differ.
"""

import time
from collections.abc import Iterator
from importlib.metadata import version

import torch

from builders.model_files import fingerprint, load_tokenizer
from schemas import ReferenceLogprob
from schemas.ids import digest
from schemas.sections_training import ReferenceRun
from stores.parquet import rows_to_table
from stores.progress import progress
from stores.stage import Stage, run_stage
from train.data import Pair, Span, load_pairs
from train.packing import Tokens
from train.policy import Policy


def spans(pairs: list[Pair]) -> dict[Span, Tokens]:
    """The distinct sides of some pairs."""
    both = [((pair.chosen_span, pair.chosen), (pair.rejected_span, pair.rejected)) for pair in pairs]
    return {span: tokens for sides in both for span, tokens in sides}


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


def run(stage: Stage) -> None:
    config: ReferenceRun = stage.config
    model = stage.dir("models", config.model)
    scored = spans(load_pairs(stage, config.pairs, load_tokenizer(model), config.max_tokens))
    policy = Policy.load(model, list(scored.values()), precision=config.precision)
    libraries = [version("torch"), version("transformers")]
    mark = digest([fingerprint(model), config.precision, policy.path, policy.device.type, libraries])
    began = time.perf_counter()
    table = rows_to_table(ReferenceLogprob, build(policy, scored, config.micro_tokens, mark))
    stage.cost.device_s = time.perf_counter() - began
    stage.write(ReferenceLogprob, [table])
    stage.cost.tokens = sum(tokens.length for tokens in scored.values())


if __name__ == "__main__":
    run_stage("reference", run)
