"""Row classes of every table, and the typed `params.yaml`. Imports nothing heavy."""

from schemas.agreements import Agreement
from schemas.answers import Answer
from schemas.base import Chat, Row, arrow_schema, column_checks
from schemas.demos import Demo
from schemas.findings import Finding
from schemas.pairs import Pair
from schemas.predictions import Prediction
from schemas.problems import Problem
from schemas.prompts import Prompt
from schemas.reference_logprobs import ReferenceLogprob
from schemas.rejects import Reject
from schemas.rewards import Reward
from schemas.rollouts import Rollout
from schemas.samples import Sample
from schemas.scores import Score
from schemas.solutions import Solution
from schemas.step_labels import StepLabels
from schemas.text_statistics import TextStatistics
from schemas.training import TrainingStep
from schemas.votes import Vote

TABLES: dict[str, type[Row]] = {
    row.table: row
    for row in (
        Problem,
        Answer,
        Solution,
        Prompt,
        Sample,
        Prediction,
        Agreement,
        Vote,
        Reward,
        Score,
        Rollout,
        StepLabels,
        Demo,
        Pair,
        ReferenceLogprob,
        TrainingStep,
        Finding,
        TextStatistics,
        Reject,
    )
}
"""Table name -> row class. `rejects` is partitioned by stage too."""

__all__ = [
    "TABLES", "Agreement", "Answer", "Chat", "Demo", "Finding", "Pair", "Prediction", "Problem", "Prompt",
    "ReferenceLogprob", "Reject", "Reward", "Rollout", "Row", "Sample", "Score", "Solution", "StepLabels",
    "TextStatistics", "TrainingStep", "Vote", "arrow_schema", "column_checks",
]  # fmt: skip
