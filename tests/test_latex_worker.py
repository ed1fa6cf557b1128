"""What the worker of the `latex` checker says where math-verify fails."""

import pytest

from builders.checkers.latex_worker import compare


@pytest.mark.parametrize(
    ("broken", "verdict"), [("verify", None), ("parse of gold", None), ("parse of extracted", False)]
)
def test_only_an_answer_that_does_not_parse_is_wrong(
    broken: str, verdict: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_on(text: str | None):
        def function(given, *_: object, **__: object) -> list:
            if text is None or text in given:
                raise ValueError("a mistake of the library")
            return [given]

        return function

    monkeypatch.setattr(
        "math_verify.parse", fail_on({"parse of gold": "gold", "parse of extracted": "x"}.get(broken, "?"))
    )
    monkeypatch.setattr("math_verify.verify", fail_on(None))
    assert compare("x", "gold") is verdict
    assert compare("x%", "gold") is verdict
