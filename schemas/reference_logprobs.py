"""Log-probs of pair sides under a frozen model, computed once by the training code path."""

from typing import Annotated, ClassVar

import annotated_types as at
from pydantic import Field

from schemas.base import Int32, PromptId, Row, SampleId


class ReferenceLogprob(Row):
    """One row per (model, prompt, sample span, eos): the summed log-prob of the span's tokens."""

    table: ClassVar = "reference_logprobs"
    key: ClassVar = ("prompt_id", "sample_id", "start", "end", "eos")
    references: ClassVar = {"prompt_id": "prompts", "sample_id": "samples"}
    dictionary: ClassVar = ("eos", "fingerprint")

    prompt_id: PromptId = Field(description="the prompt that the span is scored under")
    sample_id: SampleId = Field(description="the sample")
    start: Annotated[Int32, at.Ge(0)] = Field(description="first code point of the span")
    end: Annotated[Int32, at.Ge(0)] = Field(description="code point after the span")
    eos: bool = Field(description="whether the end-of-sequence token is scored too")
    logprob: Annotated[float, at.Le(0.0)] = Field(description="sum over the span's tokens, in nats")
    n_tokens: Annotated[Int32, at.Ge(1)] = Field(description="tokens that were scored")
    fingerprint: str = Field(description="hash of weights, tokenizer, precision, code path and library versions")
