"""`samples`: n completions per prompt. The one generation stage of every recipe.

Everything generated goes through the ledger; the table is a projection of it. A killed run continues where its last
committed batch ended, and a larger n generates only what is new.
"""

from functools import partial

from builders.engines import load_engine
from builders.generation import Setting, answer, keys_of, prompts_of, sample_rows
from builders.model_files import fingerprint
from schemas import Sample
from stores.ledger import Ledger
from stores.stage import Stage, partitioned, run_stage


@partitioned()
def run(stage: Stage) -> None:
    """Writes one samples run.

    Raises ValueError for a missing model or an empty prompts run.
    """
    config = stage.config
    model = stage.dir("models", config.model)
    sampling = stage.params.sampling[config.sampling]
    setting = Setting(config.model, fingerprint(model), sampling, stage.params.seed, config.precision)
    prompts, ledger = prompts_of(stage, config.prompts), Ledger()
    load = partial(load_engine, config.engine, model, config.precision)
    shares = partial(keys_of, prompts_of(stage, config.prompts, whole=True), [(setting, config.n)])
    answer(ledger, setting, prompts, config.n, load, config.batch_size, shares).charge(stage.cost)
    stage.write(Sample, sample_rows(ledger, setting, prompts(), config.n, stage.reject, config.token_ids))


if __name__ == "__main__":
    run_stage("samples", run)
