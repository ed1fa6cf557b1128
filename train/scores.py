"""P(correct) of every sample of a run under a reward model: what reranking chooses by.

Computed by the code that trains the model (same packing, head and precision), without gradients. Samples that cannot be
read (no text, no prompt, too long) are rejects: a candidate without a score is never chosen.
"""

import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version

import torch

from builders.model_files import fingerprint
from schemas import Score
from schemas.ids import digest
from schemas.sections_reinforcement import ScoresRun
from stores.parquet import rows_to_table
from stores.progress import progress
from stores.stage import Stage, run_stage
from train import memory
from train.classifier import LABELS, Classifier, require_classifier
from train.data import Reader
from train.labelled_samples import Drawn, read_samples
from train.parallel import require_one

_CORRECT = LABELS.index("correct")


@torch.no_grad()
def build(classifier: Classifier, samples: Sequence[Drawn], micro_tokens: int, mark: str) -> Iterator[Score]:
    """One row per sample; `mark` is the fingerprint that all rows carry."""
    with progress("scores", len(samples), "samples") as bar:
        for numbers in classifier.micro_batches([[sample.tokens] for sample in samples], micro_tokens):
            micro = [samples[i] for i in numbers]
            with memory.of([sample.sample_id for sample in micro], (sample.tokens for sample in micro)):
                logprobs = classifier.class_logprobs([sample.tokens for sample in micro])[:, _CORRECT]
            for i, score in zip(numbers, logprobs.exp().clamp(max=1.0).tolist(), strict=True):
                yield Score(sample_id=samples[i].sample_id, score=score, fingerprint=mark)
            bar.advance(len(numbers))


def run(stage: Stage) -> None:
    """Writes the scores of one samples run.

    Raises ValueError where the model is a language model.
    """
    config: ScoresRun = stage.config
    model = stage.dir("models", config.model)
    require_classifier(model)
    samples = list(read_samples(stage, config.samples, Reader.of(stage)))
    if not samples:
        stage.write(Score, [rows_to_table(Score, [])])
        return
    with memory.loading(stage.section, config.model):
        classifier = Classifier.load(model, [sample.tokens for sample in samples], precision=config.precision)
    libraries = [version("torch"), version("transformers")]
    mark = digest([fingerprint(model), config.precision, classifier.path, classifier.device.type, libraries])
    began = time.perf_counter()
    with memory.lowered(f"scores.{stage.name}.micro_tokens", stage.section, lambda name: f"sample {name}"):
        stage.write(Score, [rows_to_table(Score, build(classifier, samples, config.micro_tokens, mark))])
    stage.cost.device_s += time.perf_counter() - began
    stage.cost.tokens += sum(sample.tokens.length for sample in samples)


if __name__ == "__main__":
    require_one("scores")
    run_stage("scores", run)
