"""What the sections of `params.yaml` are made of: references between runs, and the base of every row.

A field annotated with a `Slot` names a run of that table (or several, in a list), or `none` where the stage can do
without. `writes` says which tables a section's runs write. Fields that `dvc.yaml` interpolates have no default: DVC
cannot fill one in.
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import annotated_types as at
from pydantic import BaseModel, ConfigDict, Field

NONE = "none"
NO_FILE = "data/none"
"""The path to write where a run reads no file: DVC needs one that exists."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Positive = Annotated[int, at.Ge(1)]
Natural = Annotated[int, at.Ge(0)]


class Slot:
    """Marks a field that names a run of `table` (`required=False`: or `none`).

    `beside` are further tables of the same run that the stage reads, such as the answers of problems.
    """

    def __init__(self, table: str, required: bool = True, beside: tuple[str, ...] = ()):
        self.table, self.required, self.beside = table, required, beside


class Entry:
    """Marks a field that names an entry of a params section which is no stage."""

    def __init__(self, section: str):
        self.section = section


ProblemsName = Annotated[str, Slot("problems")]
ProblemsOrNone = Annotated[str, Slot("problems", required=False)]
AnsweredName = Annotated[str, Slot("problems", beside=("answers",))]
AnsweredOrNone = Annotated[str, Slot("problems", required=False, beside=("answers",))]
SolvedName = Annotated[str, Slot("problems", beside=("answers", "solutions"))]
ExplainedOrNone = Annotated[str, Slot("problems", required=False, beside=("solutions",))]
PromptsName = Annotated[str, Slot("prompts")]
PromptsOrNone = Annotated[str, Slot("prompts", required=False)]
SamplesName = Annotated[str, Slot("samples")]
SamplesOrNone = Annotated[str, Slot("samples", required=False)]
PredictionsName = Annotated[str, Slot("predictions")]
PredictionsOrNone = Annotated[str, Slot("predictions", required=False)]
RewardsName = Annotated[str, Slot("rewards")]
RewardsOrNone = Annotated[str, Slot("rewards", required=False)]
AgreementsName = Annotated[str, Slot("agreements")]
AgreementsOrNone = Annotated[str, Slot("agreements", required=False)]
VotesName = Annotated[str, Slot("votes")]
StepLabelsName = Annotated[str, Slot("step_labels")]
StepLabelsOrNone = Annotated[str, Slot("step_labels", required=False)]
DemosName = Annotated[str, Slot("demos")]
DemosOrNone = Annotated[str, Slot("demos", required=False)]
PairsName = Annotated[str, Slot("pairs")]
PairsOrNone = Annotated[str, Slot("pairs", required=False)]
ReferenceName = Annotated[str, Slot("reference_logprobs")]
ReferenceOrNone = Annotated[str, Slot("reference_logprobs", required=False)]
TrainingOrNone = Annotated[str, Slot("training", required=False)]
ScoresName = Annotated[str, Slot("scores")]
ModelName = Annotated[str, Slot("models")]
ModelOrNone = Annotated[str, Slot("models", required=False)]
SamplingName = Annotated[str, Entry("sampling")]
Checker = Annotated[str, Field(pattern=r"^([a-z][a-z0-9_]*|[A-Za-z_][\w.]*:[A-Za-z_]\w*@[\w.+-]+)$")]
"""`auto`, a checker of `builders.checkers`, or a user's own as `package.module:Class@version`."""
EngineName = Literal["hf", "vllm", "openai", "ray", "scripted"]
PartialRule = Literal["none", "paper", "code"]
"""Who gets the partial reward for a wrong answer. ReFT's paper: who states a number, where gold is a number too; its
authors' code: who states any answer (and with options everybody, since there the whole text is an answer)."""
PartialReward = Annotated[float, at.Ge(0), at.Lt(1)]


def quoted(names: Iterable[str]) -> str:
    """Names as an error lists them."""
    return ", ".join(f"'{name}'" for name in sorted(names)) or "none"


class Section(BaseModel):
    """A row of params: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    writes: ClassVar[tuple[str, ...]] = ()
    rejects: ClassVar[bool] = True
    """Whether runs of a stage drop candidates, which are kept with their reasons."""
