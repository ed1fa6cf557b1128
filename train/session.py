"""What every training loop needs around its steps: resuming, logging, validation, checkpoints, saving at the end."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import transformers
from torch import Tensor

from builders.model_files import fingerprint, read_record, write_record
from schemas import TrainingStep
from schemas.ids import digest
from schemas.sections_training import LearningRun, Optimizer, TrainingRun
from schemas.slots import NONE
from stores.paths import run_dir
from stores.progress import progress
from stores.stage import Stage
from train import memory, packing, parallel
from train.checkpoints import Checkpoints, TrainingState
from train.code import code_hash
from train.memory import OutOfMemoryError
from train.meter import Meter, given_peak, load_columns
from train.optimizer import Schedule, adamw, update
from train.packing import Tokens
from train.policy import Policy
from train.random_state import random_state, restore
from train.trackers import wanted
from train.validation import Validator, load_validator

_NAMED = 3  # examples that an error names
_SOURCES = (
    "train/*.py", "builders/rendering.py", "builders/engines/*.py", "builders/checkers/*.py", "builders/rule_labels.py",
    "builders/steps.py", "builders/equations/*.py",
)  # fmt: skip
"""Code that decides a run's outputs: training itself, and what validation and rollouts generate and check with."""

T = TypeVar("T")
Trained = TypeVar("Trained", bound=Policy)
Watch = Callable[[int], dict[str, Any]]
"""Measures the present weights in forwards of at most so many tokens: more columns of a row. It is called without
gradients, dropout or random state.
"""


def nothing(_: int) -> dict[str, Any]:
    """Watches nothing."""
    return {}


class Session:
    """One training run of a policy on `n_examples` examples.

    `data_hash` covers the tokens of all data that decides the run (and reference log-probs), in order.
    """

    def __init__(
        self, stage: Stage, policy: Policy, n_examples: int, data_hash: str, validator: Validator | None = None
    ):
        self.stage, self.policy, self.validator = stage, policy, validator
        self.config: LearningRun = stage.config
        self.schedule = Schedule(timed_optimizer(stage), n_examples, stage.params.seed)
        self.parameters = policy.trainable()
        self.optimizer = adamw(policy.modules, self.config.optimizer)
        self.fingerprint = self._fingerprint(data_hash)
        self.checkpoints = Checkpoints(self.fingerprint, policy, self.optimizer)
        self.state = TrainingState()
        self.micro_tokens = self.config.optimizer.micro_tokens
        """Tokens of a forward: as params say, or less where that did not fit."""
        policy.counted_by = self.micro_tokens
        self._before: dict[str, Any] = {}
        self.meter = Meter(stage, policy, self.fingerprint)

    def _fingerprint(self, data_hash: str) -> str:
        """Hash of everything that decides the run's outputs; what only says when it stops does not."""
        stage, validator = self.stage, self.validator.fingerprint if self.validator else None
        model = fingerprint(stage.dir("models", self.config.model))
        libraries = [torch.__version__, transformers.__version__]
        run = [stage.section, self.config.model_dump(exclude={"stops"}), stage.params.seed, model, data_hash, validator]
        run.append(self.schedule.steps)  # `steps_from` says only where they come from
        return digest([run, self.policy.path, self.policy.device.type, libraries, code_hash(_SOURCES)])

    def steps(self, watch: Watch = nothing, watch_end: Watch | None = None) -> Iterator[int]:
        """The steps to take, from the last checkpoint on; the caller's loop trains on each one's batch.

        Around them: validation, and `watch` (more columns) at every logged step, `watch_end` instead after the last
        update, which no batch follows; checkpoints; at the end the best weights are put back.

        A row's `step` is the number of updates before it was measured: its batch's loss, its
        validation and what is watched are all of the same weights.
        """
        title, every = f"{self.stage.section} {self.stage.name}", self.config.checkpoint_every
        with self.checkpoints.exclusive():
            self.state = state = self.checkpoints.resume()
            room = parallel.agreed(self.checkpoints.micro_tokens())
            self.micro_tokens = min(self.micro_tokens, room or self.micro_tokens)
            with self.meter.running(state.step):
                with progress(title, self.schedule.steps, "steps", state.step) as bar:
                    while state.step < self.schedule.steps:
                        began = time.perf_counter()
                        self._before = self._measure(state.step, watch)
                        self.meter.start()
                        yield state.step
                        state.step += 1
                        state.device_s += (time.perf_counter() - began) * parallel.count()
                        if state.step % every == 0 or state.step == self.schedule.steps:
                            self.checkpoints.save(state)
                        bar.note = self.meter.note
                        bar.advance()
                self._finish(watch_end or watch)

    def _finish(self, watch: Watch) -> None:
        """Measures the last weights and puts back the best ones."""
        began = time.perf_counter()
        if last := self._measure(self.schedule.steps, watch):
            self._add_row(self.schedule.steps, last | {"n_sequences": 0, "n_tokens": 0})
            self.meter.trackers.log(self.schedule.steps, self.state.rows[-1])
        self.state.device_s += (time.perf_counter() - began) * parallel.count()
        if self.state.best_step is not None:
            self.checkpoints.load_best(self.state.best_step)

    def _measure(self, step: int, watch: Watch) -> dict[str, Any]:
        """What is logged of the weights before a step, apart from its batch."""
        columns: dict[str, Any] = {}
        if self._is_logged(step):
            with self.policy.measuring():
                columns = self.within_memory(step, watch)
        return columns | ({"validation_accuracy": self._validate(step)} if self._is_validated(step) else {})

    def _is_validated(self, step: int) -> bool:
        if self.validator is None or not isinstance(self.config, TrainingRun):
            return False
        return step > 0 and (step % self.config.validation.every == 0 or step == self.schedule.steps)

    def _is_logged(self, step: int) -> bool:
        last = step >= self.schedule.steps - 1
        return step % self.config.log_every == 0 or last or self._is_validated(step)

    def _validate(self, step: int) -> float:
        assert self.validator is not None
        assert isinstance(self.config, TrainingRun)
        sampling = f"lower max_new_tokens of '{self.config.validation.sampling}'"
        with self.needed(step, "in validation", sampling, *self._lighter()):
            accuracy, best = self.validator.accuracy(self.policy), self.state.best_accuracy
        if best is None or accuracy > best:
            self.checkpoints.save_best(step)
            self.state.best_step, self.state.best_accuracy = step, accuracy
        return accuracy

    def keep(self) -> None:
        """Writes a checkpoint now: the run is about to end with an error, and may go on from here."""
        self.checkpoints.save(self.state)

    def log(self, step: int, columns: dict[str, Any]) -> None:
        """A step's end. Keeps its columns of the training table, if the step is one that is logged."""
        load = self.meter.stop(columns["n_sequences"])
        if self._is_logged(step):
            self._add_row(step, columns | load_columns(load) | self._before)
            self.meter.report(step, self.state.rows[-1])

    def _add_row(self, step: int, columns: dict[str, Any]) -> None:
        nothing: dict[str, Any] = dict.fromkeys(TrainingStep.model_fields)
        row = nothing | {"step": step, "epoch": self.schedule.epoch(step)} | columns
        self.state.rows.append(TrainingStep(**row).model_dump())

    def require_fit(self, examples: Iterable[tuple[str, Sequence[Tokens]]]) -> None:
        """Raises ValueError where a forward of one example alone is beyond `micro_tokens`."""
        setting = f"{self.stage.section}.{self.stage.name}.optimizer.micro_tokens"
        packing.require_fit(examples, self.config.optimizer.micro_tokens, setting, self.policy.path == "padded")

    def within_memory(self, step: int, work: Callable[[int], T]) -> T:
        """What some work of a step returns, which is done in forwards of at most so many tokens (and their backwards).

        If memory is full the budget is halved, which a resumed run goes on with, and the work done again: here, where
        the model is whole; where it is divided, what a failed forward left behind is not repaired, and all processes
        have to start again. Raises ValueError then, and where one example alone does not fit.
        """
        policy, trained, planned = self.policy, self.policy.trained, self.policy.planned
        random = random_state(policy.device)
        while True:
            try:
                return work(self.micro_tokens)
            except OutOfMemoryError as error:
                self._halve(step, error)
            policy.trained, policy.planned = trained, planned
            restore(random, policy.device)
            self.optimizer.zero_grad(set_to_none=True)
            memory.free()

    def _halve(self, step: int, error: OutOfMemoryError) -> None:
        said = f"step {step}: {self._named('memory is full', error.names)}, {error.tokens:,} tokens"
        if len(error.names) == 1:
            ways = [error.way, *self._lighter(error.gradients), *memory.more_devices(self.stage.section)]
            raise ValueError(f"{said} alone; {', or '.join(ways)}")
        self.micro_tokens = min(self.micro_tokens, error.tokens) // 2
        self.checkpoints.keep_micro_tokens(self.micro_tokens)
        said += f"; a forward is of at most {self.micro_tokens:,} tokens from now on"
        if parallel.active():
            raise ValueError(f"{said}; run it again, and it continues from its checkpoint")
        print(f"{self.stage.section} {self.stage.name}: {said}", file=sys.stderr)

    def needed(self, step: int, what: str, *ways: str) -> contextlib.AbstractContextManager[None]:
        """`memory.needed` for a part of a step."""
        more = memory.more_devices(self.stage.section)
        return memory.needed(f"step {step}: memory is full, {what}", *ways, *more)

    def _lighter(self, gradients: bool = False) -> list[str]:
        """Settings with which training needs less memory, those that are not set; one for a forward with gradients."""
        possible = self.policy.model.supports_gradient_checkpointing
        checkpointing = gradients and possible and not self.config.gradient_checkpointing
        ways = {"gradient_checkpointing": checkpointing, "lora": self.config.lora is None}
        return [f"set {name}" for name, helps in ways.items() if helps]

    def update(self, step: int, losses: Tensor, names: Sequence[str], tokens: int) -> dict[str, Any]:
        """One optimizer step from the accumulated gradients; returns learning rate and gradient norm.

        `losses` (n,), one per example, and the examples' `names` say what an error is about; `tokens` were trained on.
        Raises ValueError if a loss or the gradient is not finite; nothing is updated then.
        """
        bad = [name for name, finite in zip(names, torch.isfinite(losses).tolist(), strict=True) if not finite]
        if bad:
            raise ValueError(self._not_finite(step, "the loss", bad))
        lr = self.schedule.lr(step)
        with self.needed(step, "in the optimizer's update", *self._lighter(), "use a device with more memory"):
            norm = float(update(self.optimizer, self.parameters, lr, self.config.optimizer.grad_clip))
        if not norm < float("inf"):
            raise ValueError(self._not_finite(step, "the gradient", names))
        self.state.tokens += tokens
        return {"lr": lr, "grad_norm": norm}

    def _not_finite(self, step: int, what: str, names: Sequence[str]) -> str:
        return (
            f"step {step}: {self._named(f'{what} is not finite', names)}; lower {self.stage.section}.{self.stage.name}"
            ".optimizer.lr, use precision fp32, or look at these examples"
        )

    @staticmethod
    def _named(what: str, names: Sequence[str]) -> str:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"{what}, at {', '.join(names[:_NAMED])}{more}"

    def save(self, data: dict[str, Any]) -> None:
        """Stages the model directory and the training table; `data` is the record of what was trained on.

        Checkpoints are removed once the outputs are in place.
        """
        policy = self.policy.undivided()
        if policy is None:
            return
        stage, state = self.stage, self.state
        base = read_record(stage.dir("models", self.config.model))
        directory = stage.stage_dir(run_dir("models", stage.name, stage.root))
        policy.save(directory)
        provenance = {
            "source": stage.section,
            "run": stage.name,
            "base": {"name": self.config.model, "fingerprint": base["fingerprint"]},
            "data": data,
            "steps": self.schedule.steps,
            "steps_from": steps_from(self.config),
            "selected_step": self.schedule.steps if state.best_step is None else state.best_step,
            "trust_remote_code": base["provenance"].get("trust_remote_code", False),
        }
        write_record(directory, provenance)
        stage.write_rows(TrainingStep, (TrainingStep(**row) for row in state.rows))
        stage.cost.tokens += state.tokens
        stage.cost.device_s += state.device_s
        stage.after_commit(self.checkpoints.remove)


def timed_optimizer(stage: Stage) -> Optimizer:
    """The run's optimizer with its length, which `steps_from` takes from another run's table.

    Raises ValueError where that run selected no step.
    """
    config: LearningRun = stage.config
    source = steps_from(config)
    if source == NONE:
        return config.optimizer
    step = selected_step(stage.read("training", source, ["step", "validation_accuracy"]).to_pylist())
    if step is None:
        place = f"{stage.section}.{stage.name}.steps_from"
        raise ValueError(f"{place}: training run '{source}' was never validated; rebuild it with `dvc repro`")
    return config.optimizer.model_copy(update={"steps": step})


def steps_from(config: LearningRun) -> str:
    """The run whose selected step says how long to train, or `none`."""
    return config.steps_from if isinstance(config, TrainingRun) else NONE


def selected_step(rows: Iterable[Mapping[str, Any]]) -> int | None:
    """Optimizer steps of the best checkpoint of a run, from its training table: the first of the greatest validation
    accuracy, as `Session` keeps it. None without validation.
    """
    validated = [(row["validation_accuracy"], -row["step"]) for row in rows if row["validation_accuracy"] is not None]
    return -max(validated)[1] if validated else None


def prepare(stage: Stage) -> Validator | None:
    """The run's validator. Raises ValueError for what a run lacks beside its data, and for an environment that cannot
    be read, before anything takes long.
    """
    timed_optimizer(stage)
    wanted()
    given_peak()
    return load_validator(stage)


def start(stage: Stage, sequences: Sequence[Tokens], kind: type[Trained] = Policy) -> Trained:
    """The policy (or another `kind` of model) that will see these sequences, and seeds for everything that draws: the
    initial weights of adapters and heads, and dropout. (Data order has a generator of its own.)
    """
    config: LearningRun = stage.config
    torch.manual_seed(stage.params.seed)
    with memory.loading(stage.section, config.model):
        policy = kind.load(
            stage.dir("models", config.model),
            sequences,
            precision=config.precision,
            lora=config.lora,
            gradient_checkpointing=config.gradient_checkpointing,
        )
    if parallel.rank():
        torch.manual_seed(stage.params.seed + parallel.rank())  # the same weights, but no two with the same dropout
    return policy
