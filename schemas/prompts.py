"""Prompts that a model can be asked."""

from typing import ClassVar, Literal

from pydantic import Field

from schemas.base import Chat, ProblemId, PromptId, Row


class Prompt(Row):
    """One row per prompt that a model can be asked."""

    table: ClassVar = "prompts"
    key: ClassVar = ("prompt_id",)
    references: ClassVar = {"problem_id": "problems"}
    dictionary: ClassVar = ("prefill", "rendering", "style", "template")

    prompt_id: PromptId = Field(description="problem id and hash of messages, prefill and rendering")
    problem_id: ProblemId = Field(description="the problem that is asked")
    messages: list[Chat] = Field(description="the conversation up to the model's turn")
    prefill: str = Field(description="start of the answer, given to the model")
    rendering: Literal["chat", "text"] = Field(description="by the tokenizer's chat template, or contents joined")
    style: str = Field(description="what the template asks for: natural, program, …")
    template: str = Field(description="name and hash of the template file")
    demo_sample_ids: list[str] | None = Field(description="samples shown as demonstrations, in order")
