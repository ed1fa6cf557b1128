"""What judges write, and what is read from it: labels up to the first wrong step, or the reason why not."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from builders.judging.parsing import Invalid, Labelled, parse
from builders.judging.verdicts import CorrectedVerdict, Verdict, response_format

GOOD = [("correct", "correct", "incorrect"), ("incorrect",), ("neutral",), ("correct", "correct", "correct")]


def structured(labels, **fields) -> str:
    steps = [{"step": n, "label": label} for n, label in enumerate(labels, 1)]
    return json.dumps({"analysis": "why", "steps": steps} | fields)


def line(labels, between: str = "; ") -> str:
    return between.join(f"Step {n}: {label}" for n, label in enumerate(labels, 1))


def line_or_json(labels) -> str:
    """Both ways, by the number of labels."""
    return structured(labels) if len(labels) % 2 else f"Final Decision: {line(labels)}"


WRITTEN = {
    "structured": structured,
    "a fence": lambda labels: f"```json\n{structured(labels)}\n```",
    "a fence amid prose": lambda labels: f"So \\frac{{1}}{{2}}:\n```json\n{structured(labels)}\n```\nDone.",
    "prose around": lambda labels: f"I checked {{all}}. {structured(labels)} That is all.",
    "twice the same": lambda labels: f"{structured(labels)}\n\n{structured(labels)}",
    "trailing commas": lambda labels: structured(labels).replace('"}]', '",},\n]').replace("]}", "],}"),
    "backslashes": lambda labels: structured(labels).replace("why", r"\(x\) and \[1, ] \" \\"),
    "line breaks in strings": lambda labels: structured(labels).replace("why", "a\nb"),
    "numbers as texts": lambda labels: re.sub(r'"step": (\d)', r'"step": "\1"', structured(labels)),
    "capitals": lambda labels: structured(labels).replace("orrect", "ORRECT"),
    "more fields": lambda labels: structured(labels, confidence=0.5),
    "a decision": lambda labels: f"why\nFinal Decision:\n{line(labels)}",
    "a decision in lines": lambda labels: f"why\n\n**Final Decision:**\n\n{line(labels, chr(10))}\n",
    "a decision with commas": lambda labels: f"### FINAL DECISION\n{line(labels, ', ')}.",
    "a decision in markdown": lambda labels: f"Final Decision:\n- **{line(labels, f'**;{chr(10)}- **')}**\n",
    "a decision after a draft": lambda labels: f"Final Decision:\nStep 1: maybe\nNo.\nFinal Decision:\n{line(labels)}",
    "a decision in JSON": lambda labels: f"Final Decision:\n```json\n{structured(labels)}\n```",
    "a decision in bold numbers": lambda labels: f"Final Decision: **{line(labels, '; **').replace(':', '**:')}",
    "a decision in JSON below": lambda labels: f"My final decision: see below.\n```json\n{structured(labels)}\n```",
    "thoughts": lambda labels: f"<think>Final Decision: Step 1: {{</think>\n{line_or_json(labels)}",
    "thoughts without their start": lambda labels: f"A final decision: is it?\n</think>\n\n{structured(labels)}",
    "thoughts in an analysis": lambda labels: structured(labels).replace("why", "no </think> here"),
    "LaTeX of a u": lambda labels: structured(labels).replace("why", r"\underbrace{x}_{\u0031}, \uparrow"),
    "a summary decision": lambda labels: f"Summary decision: {line(labels)}",
}  # fmt: skip


@pytest.mark.parametrize("labels", GOOD, ids=" ".join)
@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_every_way_of_writing_labels_is_read(write, labels) -> None:
    found = parse(write(labels), 3, True)
    assert isinstance(found, Labelled), found
    assert found.labels == list(labels)


INVALID = {
    "nothing": ("", "no label: neither JSON"),
    "prose": ("All of it is fine.", "no label: neither JSON"),
    "an empty decision": ("Final Decision:\n", "no label"),
    "a refusal": ("Final Decision: I cannot say.", "no label after"),
    "another label": ("Final Decision: Step 1: wrong", "no label: step 1 is 'wrong'"),
    "two in one": ("Final Decision: Step 1: correct Step 2: incorrect", "more than one step in a segment"),
    "a range": ("Final Decision: Steps 1 and 2: correct", "no label after"),
    "no integer": ("Final Decision: Step two: correct", "a step's number is no integer: 'two'"),
    "a fraction": (structured(["correct"]).replace('"step": 1', '"step": 1.5'), "a step's number is no integer: 1.5"),
    "true": (structured(["correct"]).replace('"step": 1', '"step": true'), "a step's number is no integer: True"),
    "a step too many": (structured(["correct"] * 4), "a step that does not exist: 4 of 3"),
    "step 0": ("Final Decision: Step 0: incorrect", "a step that does not exist: 0 of 3"),
    "another order": ("Final Decision: Step 2: correct; Step 1: incorrect", r"labels out of order: \[2, 1\]"),
    "twice": ("Final Decision: Step 1: correct; Step 1: incorrect", r"labels out of order: \[1, 1\]"),
    "a gap": ("Final Decision: Step 1: correct; Step 3: incorrect", "missing steps: step 2 has no label"),
    "the end": (structured(["correct", "correct"]), "missing steps: 2 of 3 are labelled, and none of them is wrong"),
    "text after": (f"Final Decision: {line(['correct', 'incorrect'])}\nWait, no.", "text after the labels"),
    "no steps": ('{"analysis": "fine"}', "wrong schema"),
    "steps of another kind": ('{"steps": ["correct", "incorrect"]}', "wrong schema"),
    "a list": ('["correct"]', "no label"),
    "a label of another kind": ('{"steps": [{"step": 1, "label": ["correct"]}]}', "no label: step 1 is 'list'"),
    "two verdicts": (f"{structured(['incorrect'])} or {structured(['neutral'])}", "more than one verdict"),
    "depth": ('{"a":' * 5000, "no label: neither JSON"),
    "a huge number": ('{"steps": [{"step": ' + "9" * 5000 + ', "label": "correct"}]}', "no label: neither JSON"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), INVALID.values(), ids=INVALID)
def test_what_does_not_say_which_step_is_wrong_says_why(text: str, reason: str) -> None:
    found = parse(text, 3, True)
    assert isinstance(found, Invalid), found
    assert found.reason.startswith(reason.replace("\\", "")), found


QUOTES = {
    "an object that was cut": '{"analysis": "It ends: Final Decision: Step 1: incorrect',
    "an object that was cut and quotes the end of thoughts": '{"analysis": "</think>Final Decision: Step 1: neutral',
    "a fence that was cut": '```json\n{"analysis": "So:\nFinal Decision:\nStep 1: incorrect',
    "an object that is not whole": '{"analysis": "' + structured(["incorrect"]) + '", "steps": [',
    "before an object that was cut": 'It says {"steps": [{"step": 1, "label": "incorrect"}]}. I: {"analysis": "N',
    "before a decision that is none": f"It says {structured(['incorrect'])}.\nFinal Decision: none",
    "thoughts that were cut": "<think>It says Final Decision: Step 1: incorrect",
}


@pytest.mark.parametrize("text", QUOTES.values(), ids=QUOTES)
def test_a_verdict_that_an_answer_quotes_and_does_not_give_is_none(text: str) -> None:
    """A solution may contain the words that would be a verdict."""
    assert isinstance(parse(text, 3, True, cut=True), Invalid)


def test_what_is_said_after_the_first_wrong_step_is_ignored() -> None:
    for neutral, labels in ((True, ["correct", "neutral"]), (False, ["correct", "neutral", "incorrect"])):
        found = parse(structured(["correct", "neutral", "incorrect", "what", "correct"]), 3, neutral)
        assert isinstance(found, Labelled)
        assert found.labels == labels


def test_stopping_at_a_neutral_step_is_enough_only_where_it_is_an_error() -> None:
    text = structured(["correct", "neutral"])
    assert isinstance(parse(text, 3, True), Labelled)
    assert parse(text, 3, False) == Invalid("missing steps: 2 of 3 are labelled, and none of them is wrong")


@pytest.mark.parametrize("write", [structured, WRITTEN["a decision"]])
def test_an_answer_that_was_cut_counts_only_if_it_holds_a_whole_verdict(write) -> None:
    text = write(["correct", "correct", "correct", "incorrect"])
    assert isinstance(parse(text, 5, True, cut=True), Labelled)
    for end in range(len(text)):
        found = parse(text[:end], 5, True, cut=True)
        if isinstance(found, Invalid):
            assert found.reason.startswith("cut at max_new_tokens; ")
        else:
            assert found.labels[-1] == "incorrect"


def test_corrections_are_of_the_step_that_they_name() -> None:
    steps = [{"step": n, "label": "correct", "correction": c} for n, c in ((1, None), (2, " It is 3. "), (3, " "))]
    found = parse(json.dumps({"analysis": "", "steps": steps}), 3, True)
    assert isinstance(found, Labelled)
    assert found.corrections == {2: "It is 3."}
    text = "Because.\n\nCorrection of step 2:\nIt is 3,\nnot 4.\n\n**Correction of step 3:** 5\n\n"
    found = parse(f"{text}Final Decision:\n{line(GOOD[0])}", 3, True)
    assert isinstance(found, Labelled)
    assert (found.rationale, found.corrections) == ("Because.", {2: "It is 3,\nnot 4.", 3: "5"})


def test_the_schema_is_one_that_strict_servers_take() -> None:
    """All properties required, none added, at every level; nothing but what such servers know."""

    def objects(schema):
        if isinstance(schema, dict):
            yield from [schema] if schema.get("type") == "object" else []
            for value in schema.values():
                yield from objects(value)

    for corrections in (False, True):
        asked = response_format(corrections)["json_schema"]
        assert asked["strict"] is True
        found = list(objects(asked["schema"]))
        assert len(found) == 2
        for schema in found:
            assert schema["additionalProperties"] is False
            assert schema["required"] == list(schema["properties"])
            assert set(schema) <= {"type", "properties", "required", "additionalProperties", "$defs"}
    assert list(response_format(False)["json_schema"]["schema"]["properties"]) == ["analysis", "steps"], (
        "it thinks first"
    )


@given(st.data())
def test_whatever_follows_the_schema_is_read(data) -> None:
    kind = data.draw(st.sampled_from([Verdict, CorrectedVerdict]))
    labels = data.draw(st.lists(st.sampled_from(["correct", "neutral", "incorrect"]), min_size=1, max_size=9))
    more = {"correction": "so"} if kind is CorrectedVerdict else {}
    steps = [{"step": n, "label": label} | more for n, label in enumerate(labels, 1)]
    answer = kind.model_validate({"analysis": data.draw(st.text()), "steps": steps})
    found = parse(TypeAdapter(kind).dump_json(answer).decode(), len(labels), False)
    assert isinstance(found, Labelled)
    upto = labels.index("incorrect") + 1 if "incorrect" in labels else len(labels)
    assert found.labels == labels[:upto]
    assert found.rationale == (answer.analysis or None)


PIECES = st.sampled_from([
    "{", "}", "[", "]", '"', "\\", ",", ":", "\n", "```", "```json\n", "Final Decision:", "Step ", "1", "2", "correct",
    "incorrect", ";", '"steps"', '"step"', '"label"', '{"steps": [', '{"step": 1, "label": "correct"}', "\ud800", "\0",
])  # fmt: skip


@given(
    st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join)), st.integers(1, 5), st.booleans(), st.booleans()
)
def test_no_text_whatever_raises(text: str, n_steps: int, neutral: bool, cut: bool) -> None:
    found = parse(text, n_steps, neutral, cut)
    if isinstance(found, Labelled):
        assert 0 < len(found.labels) <= n_steps
    else:
        assert found.reason
