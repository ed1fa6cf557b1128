"""What stages share that join samples with their predictions: views of both, which have to fit."""

from stores.duck import Duck
from stores.stage import Stage

_FOREIGN = """
select coalesce({samples}.sample_id, {predictions}.sample_id) as sample_id
from {samples} full join {predictions} using (sample_id)
where {samples}.sample_id is null or {predictions}.sample_id is null
limit 1
"""
_ORPHAN = "select sample_id from {samples} where prompt_id is null limit 1"


def view_answered(stage: Stage, duck: Duck, samples: str = "samples", predictions: str = "predictions") -> None:
    """Views of the runs that the slots `samples` and `predictions` name, called as the slots are.

    Raises ValueError if one run has a sample that the other lacks.
    """
    runs = {slot: getattr(stage.config, slot) for slot in (samples, predictions)}
    duck.view(samples, "samples", [stage.dir("samples", runs[samples])], stage.scope)
    duck.view(predictions, "predictions", [stage.dir("predictions", runs[predictions])], stage.scope)
    found = duck.table(_FOREIGN.format(samples=samples, predictions=predictions))
    if len(found):
        raise ValueError(
            f"{stage.section}.{stage.name}.{predictions}: run '{runs[predictions]}' was not made from samples run"
            f" '{runs[samples]}' (sample {found['sample_id'][0]} is in one of them alone); name the predictions of"
            " these samples"
        )


def check_asked(stage: Stage, duck: Duck) -> None:
    """Raises ValueError if a sample of the view `samples` answers no prompt."""
    found = duck.table(_ORPHAN.format(samples="samples"))
    if len(found):
        raise ValueError(
            f"{stage.section}.{stage.name}.samples: sample {found['sample_id'][0]} answers no prompt; name a `prompts`"
            f" run in samples run '{stage.config.samples}'"
        )
