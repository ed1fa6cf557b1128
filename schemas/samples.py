"""Completions: generated, imported, or gold solutions in the same shape."""

from typing import Annotated, ClassVar, Literal

import annotated_types as at
import pyarrow as pa
from pydantic import Field

from schemas.base import Int32, ProblemId, PromptId, Row, SampleId

Count = Annotated[Int32, at.Ge(0)]


class Sample(Row):
    """One row per completion. Gold solutions and imported completions are samples too."""

    table: ClassVar = "samples"
    version: ClassVar = 2
    key: ClassVar = ("sample_id",)
    references: ClassVar = {"prompt_id": "prompts", "problem_id": "problems"}
    dictionary: ClassVar = ("model", "model_fingerprint", "finish_reason", "temperature", "top_p", "seed")
    sql_checks: ClassVar = {
        "n_chars is the length of text": "n_chars = length(text)",
        "sample_id starts with prompt_id or problem_id": "starts_with(sample_id, coalesce(prompt_id, problem_id))",
        "prompt_id starts with problem_id": "starts_with(prompt_id, problem_id)",
    }

    sample_id: SampleId = Field(description="prompt (or problem) id, request fingerprint and index")
    prompt_id: PromptId | None = Field(description="the prompt that was asked; none for text that answers no prompt")
    problem_id: ProblemId = Field(description="the problem that is answered")
    model: str = Field(description="name of the model, `gold`, or what the imported file says")
    model_fingerprint: str = Field(description="hash of weights, configuration and tokenizer")
    index: Count = Field(description="0-based number of the sample among those of its prompt and settings")
    seed: int | None = Field(description="seed of the run that drew it")
    temperature: float | None = Field(description="sampling temperature; 0 is greedy")
    top_p: float | None = Field(description="nucleus mass")
    text: str = Field(description="the completion, without the prefill")
    text_hash: str = Field(description="hash of text (16 hex digits), for de-duplication")
    n_chars: Count = Field(description="length of text in code points")
    n_tokens: Annotated[int | None, pa.int32()] = Field(description="tokens of the completion, its ending included")
    n_prompt_tokens: Annotated[int | None, pa.int32()] = Field(description="tokens of the rendered prompt and prefill")
    token_ids: Annotated[list[int] | None, pa.list_(pa.field("element", pa.int32()))] = Field(
        description="tokens as generated, where the engine gives them"
    )
    finish_reason: Literal["stop", "length"] = Field(description="ended by itself, or cut at the token limit")
    logprobs: Annotated[list[float] | None, pa.list_(pa.field("element", pa.float32()))] = Field(
        default=None, description="log-prob of each generated token under the sampling model, where it was asked for"
    )
