"""The data sections of `params.yaml`: one class per stage, each run a row that refers to other runs by name."""

from typing import Annotated, Any, ClassVar, Literal

import annotated_types as at
from pydantic import Field, model_validator

from schemas.ids import MAX_INDEX
from schemas.problems import AnswerKind
from schemas.slots import (
    NO_FILE,
    NONE,
    AnsweredName,
    Checker,
    DemosName,
    DemosOrNone,
    EngineName,
    ExplainedOrNone,
    ModelName,
    ModelOrNone,
    Name,
    Natural,
    PartialReward,
    PartialRule,
    Positive,
    PredictionsName,
    ProblemsName,
    PromptsName,
    PromptsOrNone,
    RewardsName,
    SamplesName,
    SamplingName,
    Section,
    SolvedName,
    StepLabelsOrNone,
)


class Sampling(Section):
    """Decoding settings, by name. They are part of every request's key."""

    temperature: Annotated[float, at.Ge(0)] = Field(description="0 is greedy")
    top_p: Annotated[float, at.Gt(0), at.Le(1)] = 1.0
    max_new_tokens: Positive
    stop: list[str] = Field(default=[], description="strings that end a completion; they are cut off")
    logprobs: bool = Field(default=False, description="keep the log-prob of every generated token")


class ModelRun(Section):
    """A model directory: exactly one of `hub`, a local `path`, a `config` to initialise, a `hosted` model's name, or a
    `script` for tests.

    `path` may be a LoRA adapter; then `hub` may be its base.
    """

    writes: ClassVar = ("models",)

    hub: str | None = Field(default=None, description="Hub id, with a pinned `revision`")
    revision: str | None = None
    path: str = Field(description=f"local directory of a model or of a LoRA adapter, or {NO_FILE}")
    config: dict[str, Any] | None = Field(default=None, description="`model_type` and sizes of a model to initialise")
    vocabulary: ExplainedOrNone = Field(description="problems whose words make the tokenizer of an initialised model")
    templates: list[str] = Field(
        default=[],
        description="shipped templates whose words the tokenizer of an initialised model knows, too; with one of style"
        " `program`, the words of programs",
    )
    script: list[str] | None = Field(default=None, description="completions of the `scripted` engine")
    hosted: str | None = Field(
        default=None, min_length=1, description="name of a model behind an OpenAI-compatible API (engine `openai`)"
    )
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> "ModelRun":
        given = [n for n in ("hub", "config", "script", "hosted") if getattr(self, n) is not None]
        given += ["path"] if self.path != NO_FILE else []
        if len(given) != 1 and given != ["hub", "path"]:  # an adapter and its base
            have = ", ".join(given) or "none"
            raise ValueError(f"give exactly one of hub, path, config, script, hosted (have {have})")
        if self.hub and not self.revision:
            raise ValueError("a Hub model needs a pinned `revision` (the commit hash on its Hub page)")
        if (self.config is None) != (self.vocabulary == NONE):
            raise ValueError("`config` and `vocabulary` go together: an initialised model needs words, others do not")
        if self.templates and self.config is None:
            raise ValueError(
                "templates: only a model that is initialised from `config` gets a new tokenizer; remove it"
            )
        return self


class ProblemsRun(Section):
    """Problems with answers and human solutions, from one split of one source."""

    writes: ClassVar = ("problems", "answers", "solutions")

    source: Literal[
        "gsm8k", "math", "arc", "svamp", "mathqa", "mathqa_numeric", "aqua", "aime", "odyssey", "metamath", "mmiqc",
        "olympicarena", "reft", "file", "arithmetic",
    ] = Field(description="a published data set; `file`: any file, by `columns`; `arithmetic`: generated")  # fmt: skip
    path: str = Field(description=f"local file in the source's shape; {NO_FILE}: from the Hub, or generated")
    revision: str | None = Field(default=None, description="pinned revision of the Hub data set")
    hub: str | None = Field(default=None, description="Hub data set in the source's shape, instead of the usual one")
    files: str | None = Field(default=None, description="its files there: a pattern with {split} and {subset}")
    subset: str | None = Field(default=None, description="part of the Hub data set, as ARC-Challenge (default: all)")
    split: str = Field(description="train, validation or test; a local file's rows are said to be of this split")
    seed: int = Field(default=0, description="for generation and for `shuffle`")
    shuffle: bool = Field(default=False, description="take rows in a seeded random order, to cut out held-out parts")
    skip: Natural = 0
    limit: Positive | None = Field(default=None, description="rows to take after `skip`; generated problems to make")
    steps: tuple[Positive, Positive] | None = Field(default=None, description="arithmetic: least and most steps")
    options: Annotated[int, at.Ge(2), at.Le(5)] | None = Field(
        default=None, description="arithmetic: multiple choice among so many options"
    )
    all_solutions: bool = Field(
        default=False, description="keep the solutions of rows that repeat a problem with the same answer"
    )
    unanswered: bool = Field(
        default=False,
        description="keep questions whose answer the source withholds, for what reads no gold; rewards are undecided",
    )
    columns: (
        dict[Literal["question", "answer", "choices", "solution", "program", "level", "subject", "id"], str] | None
    ) = Field(default=None, description="file: our name -> the file's column; `question` and `answer` are needed")
    answer_kind: AnswerKind | None = Field(default=None, description="file: what compares the answers")
    name: Name | None = Field(default=None, description="file: the data set's name (default: the file's)")
    licence: str | None = Field(default=None, description="licence of the rows, where the source's own is not it")

    @model_validator(mode="after")
    def _file(self) -> "ProblemsRun":
        if self.source != "file":
            given = [n for n in ("columns", "answer_kind", "name") if getattr(self, n) is not None]
            if given:
                raise ValueError(f"{given[0]}: only `source: file` has it; remove it")
            return self
        columns = self.columns or {}
        wanted = {"question", "answer"} | ({"choices"} if self.answer_kind == "choice" else set())
        if missing := sorted(wanted - set(columns)):
            raise ValueError(f"columns: map `{missing[0]}` to the file's column")
        if "choices" in columns and self.answer_kind != "choice":
            raise ValueError("answer_kind: `choices` go with `choice`")
        for field in ("answer_kind", "licence"):
            if getattr(self, field) is None:
                raise ValueError(f"{field}: `source: file` needs it")
        return self


class SamplesRun(Section):
    """`n` completions per prompt."""

    writes: ClassVar = ("samples",)

    prompts: PromptsName
    model: ModelName
    engine: EngineName
    sampling: SamplingName
    n: Annotated[int, at.Ge(1), at.Le(MAX_INDEX)]
    batch_size: Positive = Field(default=256, description="requests of one committed batch; hf: rows of one forward")
    precision: Literal["fp32", "bf16"] = "fp32"
    token_ids: bool = Field(default=False, description="keep the generated tokens in the table too")


class GoldSamplesRun(Section):
    """Human solutions as samples."""

    writes: ClassVar = ("samples",)

    problems: SolvedName
    style: Literal["natural", "program"] = "natural"
    ending: str = Field(description="appended to each solution; `{answer}` is the gold answer")
    numbered: bool = Field(
        default=False,
        description="mark the steps (lines; of one line, its sentences) after the first as `Step 2:`, …; the first"
        " one's marker is the prompt's prefill",
    )
    bare: bool = Field(default=False, description="the ending alone: an answer without its solution")
    body: bool = Field(
        default=False,
        description="style program: without `def solution():` and its docstring, which are the prompt's prefill",
    )
    model: ModelOrNone = Field(description="whose tokenizer counts tokens")

    @model_validator(mode="after")
    def _steps(self) -> "GoldSamplesRun":
        if self.numbered and self.bare:
            raise ValueError("numbered: `bare` samples have no steps; remove one of the two")
        if self.numbered and self.style == "program":
            raise ValueError("numbered: the lines of a program are no steps; use `style: natural`")
        if self.body and self.style != "program":
            raise ValueError("body: only programs have a head to leave out; use `style: program`, or remove it")
        if self.body and self.bare:
            raise ValueError("body: `bare` samples have no program; remove one of the two")
        return self


class ImportedSamplesRun(Section):
    """A user's file of completions as samples."""

    writes: ClassVar = ("samples",)

    problems: ProblemsName
    prompts: PromptsOrNone
    path: str = Field(description="JSONL (also .gz), CSV or Parquet")
    columns: dict[Literal["question", "problem_id", "text", "model", "index", "finish_reason"], str] = Field(
        description="our name -> the file's column; `text` and one of `question`, `problem_id` are needed"
    )
    model: ModelOrNone = Field(description="whose tokenizer counts tokens, those of the prompts included")

    @model_validator(mode="after")
    def _columns(self) -> "ImportedSamplesRun":
        if "text" not in self.columns or not {"question", "problem_id"} & set(self.columns):
            raise ValueError("columns: `text` and one of `question`, `problem_id` must be mapped")
        return self


class PredictionsRun(Section):
    """Final answers of a samples run."""

    writes: ClassVar = ("predictions",)

    samples: SamplesName
    prompts: PromptsOrNone
    problems: ProblemsName
    checker: Checker = Field(default="auto", description="auto: by the problem's answer_kind")


class RewardsRun(Section):
    """Verdicts of a predictions run."""

    writes: ClassVar = ("rewards",)

    predictions: PredictionsName
    problems: AnsweredName
    partial: PartialRule = Field(
        default="none",
        description="who gets the partial reward of a wrong answer: as ReFT's paper has it, or as its authors' code;"
        " pairs of correct and wrong samples then need a `margin` below 1",
    )
    partial_reward: PartialReward = Field(default=0.1, description="the partial reward, unless `partial` is none")


class EvaluateRun(Section):
    """Greedy and k sampled completions of one model, with predictions and rewards."""

    writes: ClassVar = ("samples", "predictions", "rewards")

    model: ModelName
    prompts: PromptsName
    problems: AnsweredName
    engine: EngineName
    greedy: SamplingName
    explore: SamplingName
    k: Natural = Field(description="sampled completions per prompt, for maj@k and pass@k; 0: greedy only")
    checker: Checker = "auto"
    batch_size: Positive = 256
    precision: Literal["fp32", "bf16"] = "fp32"


class GoldDemosRun(Section):
    """Gold solutions as fine-tuning examples."""

    writes: ClassVar = ("demos",)

    samples: SamplesName
    prompts: PromptsName


class CorrectDemosRun(Section):
    """Correct samples as fine-tuning examples (STaR, rejection sampling, annotation by another model)."""

    writes: ClassVar = ("demos",)

    samples: SamplesName
    rewards: RewardsName
    step_labels: StepLabelsOrNone = Field(
        description="right samples whose process these call wrong are dropped; samples without a label are kept"
    )
    sample_prompts: PromptsOrNone = Field(description="with `prompts`: the prompts that the samples answer")
    prompts: PromptsOrNone = Field(
        description="put the samples under these prompts of their problems (few-shot samples become zero-shot demos);"
        " none: under their own"
    )
    max_per_problem: Positive | None = None
    max_tokens: Positive | None = Field(default=None, description="limit of prompt and completion, in tokens")
    deduplicate: bool = True

    @model_validator(mode="after")
    def _prompts(self) -> "CorrectDemosRun":
        if self.sample_prompts != NONE and self.prompts == NONE:
            raise ValueError("sample_prompts: only samples that go under other `prompts` need it; write `none`")
        if self.max_tokens is not None and self.prompts != NONE:
            raise ValueError(
                "max_tokens: the tokens of other `prompts` are not known here; remove it (training has its own limit)"
            )
        return self


class UnionDemosRun(Section):
    """The demos of up to four runs together."""

    writes: ClassVar = ("demos",)

    a: DemosName
    b: DemosOrNone
    c: DemosOrNone
    d: DemosOrNone

    @property
    def members(self) -> list[str]:
        """The runs that come together, in order."""
        return [run for run in (self.a, self.b, self.c, self.d) if run != NONE]
