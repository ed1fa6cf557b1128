"""When a run ends with an error rather than go on from what cannot recover. All that was computed is kept.

Limits are no part of a run's fingerprint: with another limit it goes on where it stopped.
"""

from collections.abc import Sequence

from schemas.sections_reinforcement import PpoRun
from train.session import Session
from train.updates import Columns


class Watchdog:
    """Looks at every step's rollouts before anything is learnt from them."""

    def __init__(self, session: Session):
        self.session = session
        self.config: PpoRun = session.stage.config

    def check(self, step: int, columns: Columns, scores: Sequence[float | None]) -> None:
        """Raises ValueError, after a checkpoint, where KL exploded, entropy collapsed or rewards do not vary."""
        same = self._same(scores)
        if why := self._why(columns, same):
            self.session.keep()
            stage = self.session.stage
            raise ValueError(
                f"step {step}: {why} (what is done so far is kept: {stage.section}.{stage.name} goes on there)"
            )
        self.session.state.more["same_reward"] = same

    def _why(self, columns: Columns, same: tuple[float | None, int]) -> str | None:
        stops, place = self.config.stops, f"{self.session.stage.section}.{self.session.stage.name}"
        if not columns["kl"] <= stops.max_kl:
            return (
                f"the policy has left its reference: KL {columns['kl']:.4g} nats per rollout, and"
                f" {place}.stops.max_kl is {stops.max_kl:g}; lower optimizer.lr or raise beta, or raise that limit"
            )
        if columns["entropy"] < stops.min_entropy:
            return (
                f"the policy hardly varies any more: entropy {columns['entropy']:.4g} nats per token, and"
                f" {place}.stops.min_entropy is {stops.min_entropy:g}; lower optimizer.lr or raise beta, or lower"
                " that limit"
            )
        if self._constant(same[1]):
            return (
                f"all rollouts of {same[1]} steps had the reward {same[0]:g}, so nothing is learnt: look at some"
                f" (`pairwright sql`, table samples), warm the model up longer, choose problems that it solves now and"
                f" then, or raise {place}.stops.constant_reward"
            )
        return None

    def _constant(self, steps: int) -> bool:
        limit = self.config.stops.constant_reward
        return self.config.algorithm == "ppo" and 0 < limit <= steps

    def _same(self, scores: Sequence[float | None]) -> tuple[float | None, int]:
        """(the one reward of all rollouts, for how many steps now); (None, 0) where they differ."""
        before, steps = self.session.state.more.get("same_reward", (None, 0))
        known = {score for score in scores if score is not None}
        if len(known) > 1:
            return None, 0
        if not known:  # all undecided: it says nothing
            return before, steps
        (only,) = known
        return only, steps + 1 if only == before else 1
