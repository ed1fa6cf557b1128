"""Rollouts by a vLLM that is given the policy's weights before it draws, in place of those of the step before."""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from builders.engines import Finished, Request
from builders.engines.vllm import VllmEngine
from schemas.sections import Sampling
from stores.stage import Stage
from train import memory
from train.policy import Policy

_LAYER = re.compile(r".*?\.\d+\.")
_BASE, _ADAPTERS = ".base_layer", ".lora_"


class VllmSampler:
    """vLLM beside the policy, in processes of its own (`train.rollouts.Sampler`); on CUDA it sleeps while the policy
    trains, and holds no memory of the device then.

    It computes by other kernels than training does, so that its log-probs are not quite the policy's; with `bf16` its
    weights are rounded too. What is learnt from are the policy's.
    """

    def __init__(self, stage: Stage, policy: Policy, sampling: Sampling):
        self.policy, self.sampling, self.batch = policy, sampling, stage.config.rollout_batch
        with torch.random.fork_rng([]):  # training draws the same, whatever vLLM seeds
            directory = stage.dir("models", stage.config.model)
            self.engine = VllmEngine.load(directory, stage.config.precision, synchronised=True)
        self.engine.sleep()

    def stream(self, requests: Iterable[Request]) -> Iterator[Finished]:
        with memory.needed("memory is full, where vLLM is given the weights", "use a device with more memory"):
            self.engine.synchronise(checkpoint_weights(self.policy.model))
        try:
            yield from self.engine.stream(requests, self.sampling, self.batch)
        finally:
            self.engine.sleep()


@torch.no_grad()
def checkpoint_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """A model's weights as `save_pretrained` would name and shape them, its adapters merged, tied ones once.

    The model is left as it is, and what has to be made is made for one layer at a time.
    """
    for _, layer in groupby(_merged(model), lambda named: _layer(named[0])):
        yield from revert_weight_conversion(model, dict(layer)).items()


def _layer(name: str) -> str:
    """The part of the model that a weight belongs to, down to the number of its layer."""
    found = _LAYER.match(name)
    return found[0] if found else ""


def _merged(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Weights and stored buffers under their names without adapters: W + BA where there is one (peft's `merge`)."""
    seen = set[int]()
    for name, weight in model.state_dict(keep_vars=True).items():
        if _ADAPTERS in name or id(weight) in seen:
            continue
        seen.add(id(weight))
        owner, _, leaf = name.rpartition(".")
        if not owner.endswith(_BASE):
            yield name, weight
            continue
        owner = owner.removesuffix(_BASE)
        adapted = leaf == "weight"
        yield f"{owner}.{leaf}", weight + _delta(model, owner) if adapted else weight


def _delta(model: PreTrainedModel, owner: str) -> Tensor:
    """What the adapter of a layer adds to its weight."""
    return model.get_submodule(owner).get_delta_weight("default")  # pyrefly: ignore
