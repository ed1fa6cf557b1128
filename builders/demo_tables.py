"""What the demos stages share: the candidates of a run, split into demos and rejects."""

from typing import Any

from schemas import Demo
from stores.duck import Duck
from stores.stage import Stage

_DEMOS = """
select prompt_id, sample_id, demo_text_hash from candidates where reason is null order by prompt_id, sample_id
"""
_REJECTS = """
select problem_id, prompt_id, sample_id, reason, '' as detail from candidates where reason is not null
"""


def write_demos(stage: Stage, duck: Duck, query: str, params: dict[str, Any] | None = None) -> None:
    """Writes the candidates that `query` selects: without a `reason` they are demos, with one they are rejects.

    A demo holds ids only; a digest of the texts is kept in the file, so that a changed text changes it.
    """
    duck.execute(f"create temp table candidates as {query}", params)
    stage.write(Demo, duck.batches(_DEMOS), digest=["demo_text_hash"])
    for rejects in duck.batches(_REJECTS):
        stage.reject(rejects)


def check_lengths(stage: Stage, duck: Duck, unknown: str, remedy: str) -> None:
    """Raises ValueError where `max_tokens` is set and the query `unknown` finds a sample (`sample_id`)."""
    if stage.config.max_tokens is not None and len(found := duck.table(f"from ({unknown}) limit 1")):
        raise ValueError(
            f"{stage.section}.{stage.name}.max_tokens: the tokens of sample {found['sample_id'][0]} are not known;"
            f" {remedy}"
        )
