"""The value of states: a linear head in float32 that starts at zero, on the policy's own trunk or on another model's.

Zero-initialised, it says 0 of every state at first, so that the first advantages are the rewards themselves and not the
noise of a random head.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from train.logprobs import hidden_states, token_logprobs, token_logprobs_and_entropies
from train.packing import Tokens
from train.policy import Policy


class Value(nn.Module):
    """V(s) = w·h(s) + b of hidden states h: those of the policy, or of `trunk`, a model that is trained beside it.

    `trained_by_itself`: the policy's trunk learns nothing from it (while the critic warms up).
    """

    def __init__(self, policy: Policy, trunk: Policy | None = None):
        super().__init__()
        if trunk is not None and trunk.path != policy.path:
            raise ValueError(
                "value_model: its tokens cannot be laid out as the policy's; use a model of its architecture"
            )
        model = (trunk or policy).model
        width = model.config.get_text_config().hidden_size
        self.head = nn.Linear(width, 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.trunk = None if trunk is None else trunk.model
        self._trunk = trunk

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter: the head's, and those of a trunk of its own."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def of(self, hidden: Tensor, sequences: Sequence[Tokens], alone: bool = False) -> Tensor:
        """The value before each different token: (U,), in the order of the policy's batch of these `sequences`.

        `hidden` (U, d) are the policy's states; `alone`: nothing but the head learns from them.
        """
        if self._trunk is not None:
            hidden = hidden_states(self._trunk.model, self._trunk.batch(sequences))
        elif alone:
            hidden = hidden.detach()
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden.to(self.head.weight.dtype)).squeeze(-1)


class Scored(NamedTuple):
    """What a forward says of the tokens of some sequences, flat: (S,) each."""

    logprobs: Tensor
    values: Tensor | None
    entropies: Tensor | None
    owners: Tensor
    """The sequence of each token, in the order given."""
    places: Tensor
    """The place of each token in its completion, from 0."""


def score(
    policy: Policy,
    sequences: Sequence[Tokens],
    value: Value | None = None,
    entropies: bool = False,
    value_alone: bool = False,
) -> Scored:
    """Log-probs and values of completions' tokens from one pass over the trunk; `entropies` of the distributions they
    were drawn from too, where no gradient is wanted.
    """
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=policy.precision == "bf16"):
        batch = policy.batch(sequences)
        hidden = hidden_states(policy.model, batch)
        if entropies:
            scored, entropy = token_logprobs_and_entropies(policy.model, hidden, batch.targets)
        else:
            scored, entropy = token_logprobs(policy.model, hidden, batch.targets), None
        values = None if value is None else value.of(hidden, sequences, value_alone)
    scored, values, entropy = (None if x is None else batch.spread(x) for x in (scored, values, entropy))
    assert scored is not None
    return Scored(scored, values, entropy, batch.owners, _places(batch.owners, batch.n_sequences))


def _places(owners: Tensor, n: int) -> Tensor:
    """A sequence's tokens lie together and in order."""
    at = torch.arange(len(owners), device=owners.device)
    first = at.new_full((n,), len(owners)).scatter_reduce(0, owners, at, "amin")
    return at - first[owners]
