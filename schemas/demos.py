"""Fine-tuning examples, as ids."""

from typing import ClassVar

from pydantic import Field

from schemas.base import PromptId, Row, SampleId


class Demo(Row):
    """One row per fine-tuning example: a prompt and a sample to imitate."""

    table: ClassVar = "demos"
    key: ClassVar = ("prompt_id", "sample_id")
    references: ClassVar = {"prompt_id": "prompts", "sample_id": "samples"}

    prompt_id: PromptId = Field(description="the prompt")
    sample_id: SampleId = Field(description="the completion to imitate; its own prompt may differ")
