"""`evaluate`: one greedy and k sampled completions per prompt of one model, with their predictions and rewards.

The model is loaded once. Greedy rows have temperature 0; the report reads accuracy from them, and maj@k and pass@k from
the others.
"""

from collections.abc import Iterator
from functools import cache, partial

import pyarrow as pa

from builders.checkers import checker_for, get_checker
from builders.engines import Engine, load_engine
from builders.generation import Prompts, Setting, answer, keys_of, prompts_of, sample_rows
from builders.model_files import fingerprint
from builders.predictions import predict
from builders.rewards import judge
from schemas import Prediction, Reward, Sample
from stores.ledger import Ledger
from stores.stage import Stage, run_stage


def settings(stage: Stage) -> list[tuple[Setting, int]]:
    """(setting, samples per prompt): greedy, then the k explored ones.

    Raises ValueError if `greedy` is not greedy, or `explore` is.
    """
    config, directory = stage.config, stage.dir("models", stage.config.model)
    wanted = [("greedy", config.greedy, 1)] + ([("explore", config.explore, config.k)] if config.k else [])
    found = []
    for place, name, n in wanted:
        sampling = stage.params.sampling[name]
        if (sampling.temperature == 0) != (place == "greedy"):
            remedy = "temperature 0" if place == "greedy" else "a temperature above 0"
            raise ValueError(f"evaluate.{stage.name}.{place}: sampling '{name}' needs {remedy}")
        model = fingerprint(directory)
        found.append((Setting(config.model, model, sampling, stage.params.seed, config.precision), n))
    return found


def merged_rows(
    stage: Stage, ledger: Ledger, wanted: list[tuple[Setting, int]], prompts: Prompts
) -> Iterator[pa.Table]:
    """The samples of all settings in the order of `sample_id`; what got no answer is among them, as an empty one."""
    rows = (sample_rows(ledger, setting, prompts(), n, stage.reject, keep_unanswered=True) for setting, n in wanted)
    for parts in zip(*rows, strict=True):
        yield pa.concat_tables(parts).sort_by("sample_id")


def run(stage: Stage) -> None:
    """Writes the samples, predictions and rewards of one evaluated model."""
    config = stage.config
    problems = stage.read("problems", config.problems)
    for kind in problems["answer_kind"].unique().to_pylist():
        get_checker(checker_for(kind, config.checker))  # an unknown one must not show after all is generated and paid
    prompts, ledger, wanted = prompts_of(stage, config.prompts), Ledger(), settings(stage)

    @cache
    def engine() -> Engine:
        return load_engine(config.engine, stage.dir("models", config.model), config.precision)

    for setting, n in wanted:
        answer(ledger, setting, prompts, n, engine, config.batch_size, partial(keys_of, prompts, wanted)).charge(
            stage.cost
        )
    samples = pa.concat_tables(merged_rows(stage, ledger, wanted, prompts))
    stage.write(Sample, [samples])
    predictions = predict(samples, stage.read("prompts", config.prompts), problems, config.checker)
    stage.write(Prediction, [predictions])
    stage.write(Reward, [judge(predictions, stage.read("answers", config.problems))])


if __name__ == "__main__":
    run_stage("evaluate", run)
