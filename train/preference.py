"""A model trained on preference pairs: DPO, DPO with the NLL of the chosen side (Iterative RPO), ORPO, IPO, KTO.

`train.losses` states each with its paper. Deliberately absent: a reference model in memory (its log-probs are rows of
`train.reference`), padding (sequences are packed, and what they begin with in common is computed once),
length-normalised DPO, label smoothing, a trainer framework, and timings in the table.

KTO's reference point is estimated before every step from the whole batch: each pair brings its prompt with the
completions of one other pair, fixed by the order of the run. (The paper shuffles completions within each batch; then
log-probs under the reference could not be computed once.)

With `group_prompts` a step draws prompts and takes all pairs of each: a response that several of them have is computed
once, as their prompt is, and the loss is still a mean over pairs. Without it a step draws pairs, and those of one
prompt that meet by chance share as well.

Everything is divided by the pairs of the whole batch, never of a micro-batch: `micro_tokens` bounds memory and changes
no result.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from schemas.ids import digest
from schemas.sections_training import PreferenceRun
from stores.stage import Stage
from train import losses, memory, parallel
from train.command import source_of, train_stage
from train.data import Pair, Reader, hash_tokens, load_pairs
from train.policy import Policy
from train.reference_source import References, references_of
from train.release import Release
from train.session import Session, prepare, start
from train.texts import Span, spread

_WATCHED = 128
"""Pairs on which the last weights are measured: no batch follows them."""


def train(session: Session, pairs: list[Pair], references: References) -> None:
    """Trains the session's policy in place."""
    config: PreferenceRun = session.stage.config
    policy, watched = session.policy, [pairs[i] for i in spread(len(pairs), _WATCHED)]
    drawn = groups(pairs, config)
    for step in session.steps(watch_end=partial(watch, policy, watched, references, config)):
        batch = [pair for i in session.schedule.batch(step) for pair in drawn[i]]
        z0 = session.within_memory(step, partial(reference_point, policy, batch, references, config))
        columns, names = session.within_memory(step, partial(gradients, policy, batch, references, config, z0))
        sequences = [s for pair in batch for s in pair.sequences]
        taken = session.update(step, columns["loss"], names, sum(s.length for s in sequences))
        counts = {"n_sequences": len(sequences), "n_tokens": sum(len(s.completion) for s in sequences)}
        means = {name: float(values.mean()) for name, values in columns.items()}
        session.log(step, means | taken | counts)


def gradients(
    policy: Policy, batch: list[Pair], references: References, config: PreferenceRun, z0: Tensor | float, budget: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Adds up a batch's gradients; returns its columns (n,) and the pairs' names, in the order of computation."""
    parts: dict[str, list[Tensor]] = defaultdict(list)
    names: list[str] = []
    for numbers in policy.micro_batches([pair.sequences for pair in batch], budget):
        micro = [batch[i] for i in numbers]
        micro_names = [pair.name for pair in micro]
        with memory.of(micro_names, (s for pair in micro for s in pair.sequences)):
            columns = pair_losses(policy, micro, references, config, z0)
            losses.share_of_mean(columns["loss"], len(batch)).backward()
        for name, values in columns.items():
            parts[name].append(values.detach())
        names += micro_names
    return parallel.together(parts, names)


def groups(pairs: list[Pair], config: PreferenceRun) -> list[list[Pair]]:
    """What a step draws: single pairs, or all pairs of a prompt."""
    if not config.group_prompts:
        return [[pair] for pair in pairs]
    found: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        found[pair.chosen_span.prompt_id].append(pair)
    return list(found.values())


def watch(
    policy: Policy, pairs: list[Pair], references: References, config: PreferenceRun, budget: int
) -> dict[str, float]:
    """Means over some pairs of log-probs, margin and accuracy, as columns of the training table."""
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for numbers in policy.micro_batches([pair.sequences for pair in pairs], budget):
        micro = [pairs[i] for i in numbers]
        with memory.of([pair.name for pair in micro], (s for pair in micro for s in pair.sequences)):
            columns = pair_losses(policy, micro, references, config)
        for name in ("chosen_logprob", "rejected_logprob", "margin", "accuracy"):
            parts[name].append(columns[name])
    return {name: float(values.mean()) for name, values in parallel.together(parts)[0].items()}


def reference_point(
    policy: Policy, batch: list[Pair], references: References, config: PreferenceRun, budget: int
) -> Tensor | float:
    """KTO's z0 of a batch under the present weights; 0 where no mismatched completions were asked for."""
    mismatched = [scored for pair in batch for scored in pair.mismatched]
    if not mismatched:
        return 0.0
    moved: list[Tensor] = []
    with policy.measuring():
        for numbers in policy.micro_batches([[tokens] for _, tokens in mismatched], budget):
            spans, tokens = zip(*(mismatched[i] for i in numbers), strict=True)
            with memory.of([f"sample {span.sample_id}" for span in spans], tokens):
                logprobs = policy.logprobs(tokens)
            moved.append(logprobs - _reference(references, spans, logprobs))
    return losses.reference_point(parallel.together({"moved": moved})[0]["moved"])


def pair_losses(
    policy: Policy, pairs: list[Pair], references: References, config: PreferenceRun, z0: Tensor | float = 0.0
) -> dict[str, Tensor]:
    """The loss of each pair and what it is made of, by column of the training table: (n,) each."""
    chosen, rejected = policy.logprobs([p.chosen for p in pairs] + [p.rejected for p in pairs]).chunk(2)
    counts = [[len(side.completion) for side in pair.sequences] for pair in pairs]
    lengths, rejected_lengths = torch.tensor(counts, device=chosen.device).unbind(1)
    if config.loss == "orpo":
        margin = losses.log_odds(chosen, lengths) - losses.log_odds(rejected, rejected_lengths)
        preference, loss = losses.dpo(margin), losses.orpo(margin, chosen, lengths, config.lambda_orpo)
    else:
        reference_chosen = _reference(references, [p.chosen_span for p in pairs], chosen)
        reference_rejected = _reference(references, [p.rejected_span for p in pairs], rejected)
        margin = losses.dpo_margin(chosen, rejected, reference_chosen, reference_rejected, config.beta)
        preference = loss = losses.dpo(margin)
        if config.loss == "dpo_nll":
            loss = losses.dpo_nll(margin, chosen, lengths, config.alpha)
        elif config.loss == "ipo":
            preference = loss = losses.ipo(margin, config.beta)
        elif config.loss == "kto":
            moved = chosen - reference_chosen, rejected - reference_rejected
            preference = loss = losses.kto(*moved, z0, config.beta, config.desirable_weight, config.undesirable_weight)
    return {
        "loss": loss,
        "preference_loss": preference,
        "nll_loss": losses.nll(chosen, lengths),
        "chosen_logprob": chosen,
        "rejected_logprob": rejected,
        "margin": margin,
        "accuracy": losses.accuracy(margin),
    }


def _reference(references: References, spans: Iterable[Span], like: Tensor) -> Tensor:
    return torch.tensor([references[span] for span in spans], dtype=torch.float64).to(like)


def run(stage: Stage, release: Release | None = None) -> None:
    config: PreferenceRun = stage.config
    validator, source = prepare(stage), source_of(stage, "pairs", config.pairs, release)
    pairs = load_pairs(source, Reader.of(stage), mismatched=config.mismatched)
    references = references_of(stage, pairs, source if release else None)
    sequences = [tokens for pair in pairs for _, tokens in pair.scored]
    policy = start(stage, sequences)
    data = digest([hash_tokens(sequences), list(references.values())])
    session = Session(stage, policy, len(groups(pairs, config)), data, validator)
    session.require_fit((pair.name, pair.sequences) for pair in pairs)
    session.require_fit((pair.name, [tokens]) for pair in pairs for _, tokens in pair.mismatched)
    train(session, pairs, references)
    session.save(source.record)


if __name__ == "__main__":
    train_stage("preference", run)
