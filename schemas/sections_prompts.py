"""The prompts section of `params.yaml`."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from schemas.slots import Natural, ProblemsName, ProblemsOrNone, SamplesOrNone, Section


class PromptsRun(Section):
    """One prompt per problem."""

    writes: ClassVar = ("prompts",)

    problems: ProblemsName
    template: str = Field(
        description="name of a file in builders/templates, or package:file@hash of one in a package of yours"
    )
    rendering: Literal["chat", "text"]
    shots: Natural = Field(default=0, description="demonstrations; drawn once, but for `named` and `redraw`")
    seed: int = 0
    named: list[str] = Field(
        default=[],
        description="sample ids, or problem ids (their first sample), of the demonstrations in order, instead of a"
        " draw; `shots` of them are shown, the others stand in where a problem is itself among them",
    )
    redraw: bool = Field(default=False, description="draw other demonstrations for every prompt")
    demo_samples: SamplesOrNone
    demo_problems: ProblemsOrNone

    @model_validator(mode="after")
    def _demonstrations(self) -> "PromptsRun":
        if self.named and self.redraw:
            raise ValueError("named: these are no draw; remove it, or `redraw`")
        if (self.named or self.redraw) and not self.shots:
            raise ValueError(f"shots: say how many a prompt shows, or remove `{'named' if self.named else 'redraw'}`")
        if self.named and self.shots > len(self.named):
            raise ValueError(f"named: {len(self.named)} cannot make {self.shots} shots; name more, or lower `shots`")
        if twice := next((name for name in self.named if self.named.count(name) > 1), None):
            raise ValueError(f"named: '{twice}' is there twice; name it once")
        return self
