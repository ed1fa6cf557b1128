"""A model trained by PPO on the pipeline's own rewards, as ReFT has it (Luong et al. 2024, arXiv 2401.08967).

A step draws one completion of each of `optimizer.batch_size` prompts, judges and rewards them, and updates the policy
on them `ppo_epochs` times. The model that training starts from is policy and, frozen, reference. `train.losses_ppo`
states the arithmetic with its sources, `train.experience` what a step learns from. Deliberately absent: normalised
rewards, an entropy bonus, padding in training (sequences are packed), a mean over tokens (it is taken within each
sequence first), a trainer framework, and selection on test data (the authors' code chooses its checkpoint there).

Log-probs of what was drawn are computed by this code before the updates, not taken from the sampler; how far the two
are apart is logged. Everything is divided by counts of the whole batch of an update, so `micro_tokens` changes no
result.

`algorithm: online_st` trains on the same rollouts otherwise: see `train.self_training`.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from builders.model_files import fingerprint, load_tokenizer
from schemas.ids import digest
from schemas.sections_reinforcement import PpoRun
from schemas.slots import NONE
from stores.stage import Stage, run_stage
from train import losses, losses_ppo, memory
from train.experience import SHORTER, Experience, Reference, Seen, experience, look
from train.journal import Journal
from train.packing import Tokens
from train.parallel import require_one
from train.policy import Policy
from train.rewarding import Judged, Rewarder
from train.rollout_tables import write_tables
from train.rollouts import Drawn, Rollouts, load_sampler
from train.self_training import imitate
from train.session import Session, prepare, start
from train.stops import Watchdog
from train.tasks import check_visits, load_tasks, probes, rollout_sampling, tasks_hash
from train.updates import Columns, Parts, mini_batches
from train.value import Value, score


def update(session: Session, step: int, given: Experience, value: Value) -> Columns:
    """`ppo_epochs` passes over a step's rollouts; returns columns of the table, none where nothing is learnt."""
    config: PpoRun = session.stage.config
    parts = Parts()
    for epoch in range(config.ppo_epochs if given.trained else 0):
        for mini in mini_batches(given.trained, config.mini_batch, (session.stage.params.seed, step, epoch)):
            _update(session, step, given, value, mini, parts)
    return parts.means()


def _update(session: Session, step: int, given: Experience, value: Value, mini: list[int], parts: Parts) -> None:
    """One optimizer step on some of the rollouts."""
    warming = step < session.stage.config.critic_warmup
    work = partial(gradients, session.policy, value, given, mini, session.stage.config, warming)
    columns, names = session.within_memory(step, work)
    parts.add(columns)
    tokens = sum(given.sequences[i].length for i in mini)
    parts.taken = session.update(step, columns["loss"], names, tokens)


def gradients(
    policy: Policy, value: Value, given: Experience, mini: list[int], config: PpoRun, warming: bool, budget: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Adds up an update's gradients; returns its columns (n,) and the rollouts' names, in the order of computation."""
    parts: dict[str, list[Tensor]] = defaultdict(list)
    names: list[str] = []
    for numbers in policy.micro_batches([[given.sequences[i]] for i in mini], budget):
        micro = [mini[i] for i in numbers]
        micro_names = [given.names[i] for i in micro]
        with memory.of(micro_names, (given.sequences[i] for i in micro), SHORTER):
            columns = rollout_losses(policy, value, given, micro, config, warming)
            losses.share_of_mean(columns["loss"], len(mini)).backward()
        for name, values in columns.items():
            parts[name].append(values.detach())
        names += micro_names
    return {name: torch.cat(pieces) for name, pieces in parts.items()}, names


def rollout_losses(
    policy: Policy, value: Value, given: Experience, numbers: list[int], config: PpoRun, warming: bool = False
) -> dict[str, Tensor]:
    """The loss of each of some rollouts and what it is made of, by column of the training table: (n,) each.

    L = Lπ + c·Lv, each the mean over the rollout's tokens; while the critic warms up c·Lv alone.
    """
    sequences, rows = [given.sequences[i] for i in numbers], torch.tensor(numbers, device=policy.device)
    found = score(policy, sequences, value, value_alone=warming)
    assert found.values is not None
    at = rows[found.owners], found.places
    old, advantages = given.seen.logprobs[at].to(found.logprobs), given.advantages[at].to(found.logprobs)
    assert given.seen.values is not None
    old_values, returns = given.seen.values[at].to(found.values), given.returns[at].to(found.values)
    tokens = {
        "policy_loss": losses_ppo.policy_losses(found.logprobs, old, advantages, config.clip),
        "value_loss": losses_ppo.value_losses(found.values, old_values, returns, config.value_clip),
        "clip_fraction": losses_ppo.clipped_share(torch.exp(found.logprobs - old), 1.0, config.clip),
        "value_clip_fraction": losses_ppo.clipped_share(found.values - old_values, 0.0, config.value_clip),
    }
    lengths = given.seen.lengths[rows]
    columns = {name: losses_ppo.sequence_means(x, found.owners, lengths) for name, x in tokens.items()}
    weighted = config.value_coefficient * columns["value_loss"]
    return {"loss": weighted if warming else columns["policy_loss"] + weighted} | columns


class Trainer:
    """A run's parts, and what happens in each of its steps."""

    def __init__(
        self, session: Session, rollouts: Rollouts, rewarder: Rewarder, reference: Reference, value: Value | None
    ):
        self.session, self.rollouts, self.rewarder = session, rollouts, rewarder
        self.reference, self.value = reference, value
        self.config: PpoRun = session.stage.config
        self.journal = Journal(session.checkpoints.journal)
        self.watchdog = Watchdog(session)

    def step(self, step: int) -> None:
        """Draws, judges and looks at a step's rollouts, and updates the policy on them."""
        with self.session.needed(step, "in a rollout alone", SHORTER):
            drawn = self.rollouts.draw(self.session.schedule.visits(step))
        judged = self._judge(step, drawn)
        scores = [self.rewarder.score(one, found) for one, found in zip(drawn, judged, strict=True)]
        sequences = [one.tokens for one in drawn]
        work = partial(look, self.session.policy, self.value, self.reference, sequences)
        seen = self.session.within_memory(step, work)
        beta = self.session.state.more.get("beta", self.config.beta)
        columns = measured(drawn, judged, scores, seen) | {"beta": beta}
        self.watchdog.check(step, columns, scores)
        trained = [i for i, one in enumerate(drawn) if scores[i] is not None and self._learns(one)]
        names, returns = [one.sample_id for one in drawn], None
        if self.value is not None:
            given = experience(self.config, sequences, names, seen, scores, trained, beta)
            columns |= given.columns() | update(self.session, step, given, self.value)
            returns = given.returns
        else:
            columns |= imitate(self.session, step, drawn, [i for i in trained if scores[i] == 1.0])
        self.journal.append("seen", step, seen_rows(drawn, scores, seen, returns))
        self.session.log(step, columns)
        self._adapt(columns["kl"], len(drawn))

    def _learns(self, one: Drawn) -> bool:
        return not (self.config.mask_truncated and one.truncated)

    def _judge(self, step: int, drawn: Sequence[Drawn]) -> list[Judged]:
        """What was found of a step once stays: a killed run must go on from the same verdicts."""
        kept = self.journal.read("judged", step)
        if kept is None:
            judged = self.rewarder.judge(drawn)
            self.journal.append("judged", step, [list(found) for found in judged])
            return judged
        return [Judged(*row) for row in kept]

    def _adapt(self, kl: float, rollouts: int) -> None:
        state, adaptive = self.session.state, self.config.adaptive_kl
        if adaptive is not None:
            beta = state.more.get("beta", self.config.beta)
            state.more["beta"] = losses_ppo.adapted_beta(beta, kl, adaptive.target, adaptive.horizon, rollouts)


def measured(drawn: Sequence[Drawn], judged: Sequence[Judged], scores: Sequence[float | None], seen: Seen) -> Columns:
    """Columns of the training table that say what the rollouts are like, before anything is learnt from them."""
    known = [score for score in scores if score is not None]
    asked = [found.wrong_step for found in judged if found.wrong_step is not None]
    gaps = [gap for gap in sampler_gaps(drawn, seen) if gap is not None]
    tokens = seen.mask
    return {
        "reward": _mean(known),
        "correct": _mean([found.verdict == "correct" for found in judged if found.verdict != "undecided"]),
        "kl": float(seen.kl.mean()),
        "kl_k3": float(losses_ppo.k3(seen.logprobs, seen.reference).sum(1).mean()),
        "entropy": float(seen.entropies[tokens].mean()),
        "sampler_gap": _mean(gaps),
        "wrong_steps": _mean(asked),
        "n_truncated": sum(one.truncated for one in drawn),
        "n_undecided": sum(score is None for score in scores),
        "n_sequences": len(drawn),
        "n_tokens": int(tokens.sum()),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def sampler_gaps(drawn: Sequence[Drawn], seen: Seen) -> list[float | None]:
    """Mean over a rollout's tokens of |log-prob by the sampler − by the trainer|; None where the sampler gives none."""
    gaps: list[float | None] = []
    for one, own in zip(drawn, seen.logprobs.tolist(), strict=True):
        theirs = one.completion.logprobs
        apart = [abs(a - b) for a, b in zip(own, theirs or (), strict=False)]
        gaps.append(_mean(apart))
    return gaps


def seen_rows(drawn: Sequence[Drawn], scores: Sequence[float | None], seen: Seen, returns: Tensor | None) -> list[list]:
    """The columns of `rollouts` after `step`, one list per rollout."""
    sums = [seen.lengths, seen.logprobs.sum(1), seen.reference.sum(1)]
    first = [None] * len(drawn) if seen.values is None else seen.values[:, 0].tolist()
    ahead = [None] * len(drawn) if returns is None else returns[:, 0].tolist()
    known = [None if score is None else value for score, value in zip(scores, ahead, strict=True)]
    parts = [scores, *(part.tolist() for part in sums), sampler_gaps(drawn, seen), first, known]
    return [list(row) for row in zip(*parts, strict=True)]


def load_value(stage: Stage, policy: Policy, probe: Sequence[Tokens]) -> Value | None:
    """The run's value: a head on the policy, or on a model of its own; None where nothing has a value.

    Raises ValueError for a value model that reads texts by other tokens.
    """
    config: PpoRun = stage.config
    if config.algorithm == "online_st":
        return None
    if config.value_model == NONE:
        return Value(policy)
    directory = stage.dir("models", config.value_model)
    if load_tokenizer(directory).get_vocab() != policy.tokenizer.get_vocab():
        raise ValueError(
            f"{stage.section}.{stage.name}.value_model: '{config.value_model}' has another tokenizer than"
            f" '{config.model}', and both read the same tokens; name a model of the same family"
        )
    settings = {"lora": config.lora, "gradient_checkpointing": config.gradient_checkpointing}
    with memory.loading(stage.section, config.value_model):
        return Value(policy, Policy.load(directory, probe, precision=config.precision, **settings))


def run(stage: Stage) -> None:
    config: PpoRun = stage.config
    sampling, validator = rollout_sampling(stage), prepare(stage)
    tasks = load_tasks(stage, sampling, load_tokenizer(stage.dir("models", config.model)))
    probe = probes(tasks, sampling.max_new_tokens)
    policy = start(stage, probe)
    with memory.needed("memory is full, where the reference is made", "set lora, which needs no copy"):
        reference = Reference(policy)
    value = load_value(stage, policy, probe)
    policy.beside = policy.beside if value is None else value
    with Rewarder(config, tasks) as rewarder:
        value_model = NONE if config.value_model == NONE else fingerprint(stage.dir("models", config.value_model))
        decided = [tasks_hash(tasks), sampling.model_dump(), rewarder.versions, value_model]
        session = Session(stage, policy, len(tasks), digest(decided), validator)
        check_visits(stage, session.schedule.visits(session.schedule.steps - 1)[-1][1] + 1)
        sampler = load_sampler(stage, policy, sampling)
        rollouts = Rollouts(stage, tasks, session.fingerprint, sampling, sampler)
        trainer = Trainer(session, rollouts, rewarder, reference, value)
        for step in session.steps():
            trainer.step(step)
        write_tables(stage, session.schedule, rollouts, rewarder, trainer.journal)
    session.save({"table": "prompts", "run": config.prompts, "tasks": decided[0]})


if __name__ == "__main__":
    require_one("ppo")
    run_stage("ppo", run)
