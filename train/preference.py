"""A model trained on preference pairs: DPO, and DPO with the NLL of the chosen side (Iterative RPO, arXiv 2404.19733).

Deliberately absent: a reference model in memory (its log-probs are a table that
`train.reference` writes), padding (sequences are packed), length-normalised DPO, label smoothing, other losses' knobs,
a trainer framework, and timings in the table. Prompts are not shared between the two sides yet.

Everything is divided by the pairs of the whole batch, never of a micro-batch: `micro_tokens` bounds memory and changes
no result.
"""

import sys
from collections import defaultdict

import torch
from torch import Tensor

from builders.model_files import load_tokenizer
from schemas.ids import digest
from schemas.sections_training import PreferenceRun
from stores.stage import Stage, run_stage
from train import losses
from train.data import Pair, Span, hash_tokens, load_pairs, spread
from train.policy import Policy
from train.session import Session, start
from train.validation import load_validator

References = dict[Span, float]
_WATCHED = 128
"""Pairs on which the last weights are measured: no batch follows them."""


def load_references(stage: Stage, run: str, pairs: list[Pair]) -> References:
    """Summed log-prob of each side of the pairs under the reference model, in nats.

    Raises ValueError if the run lacks one.
    """
    reference, start_model = stage.params.reference[run].model, stage.config.model
    if reference != start_model:
        print(
            f"{stage.section} {stage.name}: trains from model '{start_model}' with log-probs of '{reference}' as its"
            " reference: legal, but DPO starts where its reference is",
            file=sys.stderr,
        )
    table = stage.read("reference_logprobs", run)
    keys = zip(*(table[column].to_pylist() for column in Span._fields), strict=True)
    found = dict(zip((Span(*key) for key in keys), table["logprob"].to_pylist(), strict=True))
    for pair in pairs:
        for span in (pair.chosen_span, pair.rejected_span):
            if span not in found:
                raise ValueError(
                    f"{pair.name}: reference_logprobs run '{run}' has no row for sample {span.sample_id}; let"
                    f" reference.{run}.pairs be '{stage.config.pairs}' and run `dvc repro`"
                )
    return found


def train(session: Session, pairs: list[Pair], references: References) -> None:
    """Trains the session's policy in place."""
    config: PreferenceRun = session.stage.config
    policy, watched = session.policy, [pairs[i] for i in spread(len(pairs), _WATCHED)]
    for step in session.steps(watch_end=lambda: watch(policy, watched, references, config)):
        batch = [pairs[i] for i in session.schedule.batch(step)]
        parts: dict[str, list[Tensor]] = defaultdict(list)
        names: list[str] = []
        for numbers in policy.micro_batches([pair.sequences for pair in batch], config.optimizer.micro_tokens):
            micro = [batch[i] for i in numbers]
            columns = pair_losses(policy, micro, references, config)
            losses.share_of_mean(columns["loss"], len(batch)).backward()
            for name, values in columns.items():
                parts[name].append(values.detach())
            names += [pair.name for pair in micro]
        sequences = [s for pair in batch for s in pair.sequences]
        taken = session.update(step, torch.cat(parts["loss"]), names, sum(s.length for s in sequences))
        counts = {"n_sequences": len(sequences), "n_tokens": sum(len(s.completion) for s in sequences)}
        means = {name: float(torch.cat(pieces).mean()) for name, pieces in parts.items()}
        session.log(step, means | taken | counts)


def watch(policy: Policy, pairs: list[Pair], references: References, config: PreferenceRun) -> dict[str, float]:
    """Means over some pairs of log-probs, margin and accuracy, as columns of the training table."""
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for numbers in policy.micro_batches([pair.sequences for pair in pairs], config.optimizer.micro_tokens):
        columns = pair_losses(policy, [pairs[i] for i in numbers], references, config)
        for name in ("chosen_logprob", "rejected_logprob", "margin", "accuracy"):
            parts[name].append(columns[name])
    return {name: float(torch.cat(pieces).mean()) for name, pieces in parts.items()}


def pair_losses(policy: Policy, pairs: list[Pair], references: References, config: PreferenceRun) -> dict[str, Tensor]:
    """The loss of each pair and what it is made of, by column of the training table: (n,) each."""
    chosen, rejected = policy.logprobs([p.chosen for p in pairs] + [p.rejected for p in pairs]).chunk(2)
    spans = [(p.chosen_span, p.rejected_span) for p in pairs]
    reference = torch.tensor([[references[c], references[r]] for c, r in spans], dtype=torch.float64).to(chosen)
    margin = losses.dpo_margin(chosen, rejected, reference[:, 0], reference[:, 1], config.beta)
    lengths = torch.tensor([len(p.chosen.completion) for p in pairs], device=chosen.device)
    preference, nll = losses.dpo(margin), losses.nll(chosen, lengths)
    both = losses.dpo_nll(margin, chosen, lengths, config.alpha)
    return {
        "loss": both if config.loss == "dpo_nll" else preference,
        "preference_loss": preference,
        "nll_loss": nll,
        "chosen_logprob": chosen,
        "rejected_logprob": rejected,
        "margin": margin,
        "accuracy": losses.accuracy(margin),
    }


def run(stage: Stage) -> None:
    config: PreferenceRun = stage.config
    start(stage)
    model = stage.dir("models", config.model)
    pairs = load_pairs(stage, config.pairs, load_tokenizer(model), config.max_tokens)
    references = load_references(stage, config.reference, pairs)
    sequences = [s for pair in pairs for s in pair.sequences]
    policy = Policy.load(
        model,
        sequences,
        precision=config.precision,
        lora=config.lora,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    expected = [references[span] for pair in pairs for span in (pair.chosen_span, pair.rejected_span)]
    session = Session(stage, policy, len(pairs), digest([hash_tokens(sequences), expected]), load_validator(stage))
    train(session, pairs, references)
    session.save("pairs", config.pairs)


if __name__ == "__main__":
    run_stage("preference", run)
