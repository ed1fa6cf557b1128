"""A model fine-tuned on demonstrations: the negative log-likelihood of completions after their prompts.

Deliberately absent: loss on prompt tokens, padding (sequences are packed), a trainer
framework, and timings in the table. `reduction` says how token losses become one number: `sequence`, the mean per
sequence and then over the batch, as the NLL term of Iterative RPO has it; `token`, the mean over the batch's tokens.
Both divide by counts of the whole batch, so `micro_tokens` changes no result.

With `watch`, the chosen and rejected log-probs of some pairs are measured at every logged step: how fine-tuning on
chosen completions moves the rejected ones too (Iterative RPO, Fig. 2).
"""

from collections import defaultdict
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from schemas.ids import digest
from schemas.sections_training import SftRun
from schemas.slots import NONE
from stores.paths import run_dir
from stores.stage import Stage
from train import losses, memory, parallel
from train.command import source_of, train_stage
from train.data import Demo, Pair, Reader, hash_tokens, load_demos, load_pairs
from train.policy import Policy
from train.release import Release, ReleaseRun
from train.session import Session, prepare, start
from train.tables import Tables
from train.texts import Source

Columns = dict[str, Tensor]
Reduction = Literal["sequence", "token"]
_SIDES = ("chosen_logprob", "rejected_logprob")


def train(session: Session, demos: list[Demo], watched: list[Pair]) -> None:
    """Trains the session's policy in place."""
    config: SftRun = session.stage.config
    policy = session.policy
    for step in session.steps(partial(watch, policy, watched)):
        batch = [demos[i] for i in session.schedule.batch(step)]
        n_tokens = sum(len(demo.tokens.completion) for demo in batch)
        columns, names = session.within_memory(step, partial(gradients, policy, batch, config.reduction))
        taken = session.update(step, columns["logprob"], names, sum(demo.tokens.length for demo in batch))
        mean = float(columns["loss"].sum())
        session.log(step, {"loss": mean, "nll_loss": mean, "n_sequences": len(batch), "n_tokens": n_tokens} | taken)


def gradients(policy: Policy, batch: list[Demo], reduction: Reduction, budget: int) -> tuple[Columns, list[str]]:
    """Adds up a batch's gradients; returns each forward's share of the loss, the log-prob of each demo (n,), and the
    demos' names in the order of computation.
    """
    n_tokens = sum(len(demo.tokens.completion) for demo in batch)
    parts: dict[str, list[Tensor]] = defaultdict(list)
    names: list[str] = []
    for numbers in policy.micro_batches([[demo.tokens] for demo in batch], budget):
        micro = [batch[i] for i in numbers]
        micro_names = [demo.name for demo in micro]
        with memory.of(micro_names, (demo.tokens for demo in micro)):
            logprobs = policy.logprobs([demo.tokens for demo in micro])
            lengths = torch.tensor([len(demo.tokens.completion) for demo in micro], device=logprobs.device)
            loss = losses.sft(logprobs, lengths, reduction, len(batch), n_tokens)
            loss.backward()
        parts["loss"].append(loss.detach()[None])
        parts["logprob"].append(logprobs.detach())
        names += micro_names
    return parallel.together(parts, names)


def watch(policy: Policy, pairs: list[Pair], budget: int) -> dict[str, float]:
    """Mean chosen and rejected log-prob of some pairs, as columns of the training table; none without pairs."""
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for numbers in policy.micro_batches([pair.sequences for pair in pairs], budget):
        micro = [pairs[i] for i in numbers]
        with memory.of([pair.name for pair in micro], (s for pair in micro for s in pair.sequences)):
            logprobs = policy.logprobs([pair.chosen for pair in micro] + [pair.rejected for pair in micro])
        for name, side in zip(_SIDES, logprobs.chunk(2), strict=True):
            parts[name].append(side)
    if not pairs:
        return {}
    columns, _ = parallel.together(parts)
    means = torch.stack([columns[name] for name in _SIDES]).mean(1).tolist()
    return dict(zip(_SIDES, means, strict=True))


def run(stage: Stage, release: Release | None = None) -> None:
    config: SftRun = stage.config
    validator, reader = prepare(stage), Reader.of(stage)
    source = source_of(stage, "demos", config.demos, release)
    demos = load_demos(source, reader)
    watched = []
    if config.watch != NONE:
        watched = load_pairs(watched_pairs(stage, release), reader, config.watch_limit)
    trained, seen = [demo.tokens for demo in demos], [s for pair in watched for s in pair.sequences]
    policy = start(stage, trained + seen)
    session = Session(stage, policy, len(demos), digest([hash_tokens(trained), hash_tokens(seen)]), validator)
    session.require_fit((demo.name, [demo.tokens]) for demo in demos)
    session.require_fit((pair.name, pair.sequences) for pair in watched)
    train(session, demos, watched)
    session.save(source.record)


def watched_pairs(stage: Stage, release: Release | None) -> Source:
    """The pairs to watch, from a release that has them, else from the workspace.

    Raises ValueError where neither has them.
    """
    config: SftRun = stage.config
    if release is not None and config.watch in release.runs("pairs"):
        return ReleaseRun(release, "pairs", config.watch)
    if release is not None and not run_dir("pairs", config.watch, stage.root).is_dir():
        raise ValueError(
            f"{stage.section}.{stage.name}.watch: pairs run '{config.watch}' is neither in {release.name} nor here; set"
            " it to none, or take a release with these pairs"
        )
    return Tables(stage, "pairs", config.watch)


if __name__ == "__main__":
    train_stage("sft", run)
