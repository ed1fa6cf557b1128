"""From what a judge wrote to the labels of the steps, or to the reason why it says nothing.

It reads the structured answer of `verdicts`, and what models without such a mode write instead: JSON in a code fence or
amid prose, with trailing commas or LaTeX's backslashes; or labels after `Final Decision:`, as the Step-DPO authors ask
for (arXiv 2406.18629 and its code; the last such line counts). What was thought before `</think>` is no answer, and
what an object quotes that is not whole is none either. Answers are kept as they came and are read when the table is
written, so that a better parser reads them again and nobody pays twice.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast, get_args

from builders.engines.answers import readable
from schemas.step_labels import StepLabel

PARSER_VERSION = "verdict 1"
_LABELS: tuple[str, ...] = get_args(StepLabel)

_MARKER = re.compile(r"(?:final|summary)\s+decision\W*?(?::|\n|\Z)", re.IGNORECASE)
_BETWEEN = re.compile(r"[;\n]|,(?=\s*step\b)", re.IGNORECASE)
_SEGMENT = re.compile(
    r"step\s*(?P<number>[^\s:]+?)[.)]?[*_`]*\s*(?::|-|–|—|\bis\b)\s*(?P<label>.*)", re.IGNORECASE | re.DOTALL
)
_CORRECTION = re.compile(r"^\W*correction of step\s+([0-9]{1,6})\W*?:[*_ \t]*", re.IGNORECASE | re.MULTILINE)
_FENCE = re.compile(r"\A\s*```[a-z]*[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.IGNORECASE | re.DOTALL)
_OBJECT = re.compile(r'\{\s*"')
_BEGUN = re.compile(r'\s*(?:```[a-z]*\s*)?\{\s*"', re.IGNORECASE)
"""The start of a text that begins with an object."""
_STRING_OR_COMMA = re.compile(r'"(?:[^"\\]|\\.)*"|,(?=\s*[}\]])', re.DOTALL)
_BACKSLASH = re.compile(r"\\(u[0-9a-fA-F]{4}|.|\Z)", re.DOTALL)
_DECODER = json.JSONDecoder(strict=False)
_MARKUP = "*_`#>| \t\r."
_SHOWN = 40
_THINKING, _THOUGHT = "<think>", "</think>"


class Labelled(NamedTuple):
    """The labels of the first steps, as far as they count; why; and steps (by number, from 1) as they should be."""

    labels: list[StepLabel]
    rationale: str | None
    corrections: Mapping[int, str]


class Invalid(NamedTuple):
    """Why an answer does not say which step is wrong."""

    reason: str


class _Said(NamedTuple):
    """An answer as it was written: (number, label) of each step, neither of them checked."""

    steps: list[tuple[object, object]]
    rationale: str | None
    corrections: Mapping[int, str]


def parse(text: str, n_steps: int, neutral_is_error: bool, cut: bool = False) -> Labelled | Invalid:
    """What an answer says of a solution of `n_steps` steps; `cut`: it ended at the limit of tokens.

    Labels must be those of steps 1, 2, 3, …, to one that ends the search (`incorrect`, or `neutral` where that counts
    as an error) or to the last step. What is said of later steps is ignored. It never raises, whatever the text.
    """
    said = _read(text)
    result = said if isinstance(said, Invalid) else _check(said, n_steps, neutral_is_error)
    if isinstance(result, Labelled):
        corrections = {number: readable(text) for number, text in result.corrections.items()}
        return Labelled(result.labels, readable(result.rationale or "") or None, corrections)
    return Invalid(f"cut at max_new_tokens; {result.reason}") if cut else result


def _check(said: _Said, n_steps: int, neutral_is_error: bool) -> Labelled | Invalid:
    labels: list[StepLabel] = []
    for position, (number, written) in enumerate(said.steps, 1):
        label = written
        if written not in _LABELS and isinstance(written, str):
            label = written.strip(_MARKUP).lower()
        if fault := _fault(position, number, label, n_steps, said):
            return Invalid(fault)
        labels.append(cast(StepLabel, label))
        if label == "incorrect" or (neutral_is_error and label == "neutral"):
            return Labelled(labels, said.rationale, said.corrections)
    if not labels:
        return Invalid("no label")
    if len(labels) < n_steps:
        return Invalid(f"missing steps: {len(labels)} of {n_steps} are labelled, and none of them is wrong")
    return Labelled(labels, said.rationale, said.corrections)


def _fault(position: int, number: object, label: object, n_steps: int, said: _Said) -> str | None:
    """What is wrong with the label at a position, if anything."""
    if type(number) is not int:
        return f"a step's number is no integer: {_short(number)}"
    if label not in _LABELS:
        return f"no label: step {number} is {_short(label)}"
    if not 1 <= number <= n_steps:
        return f"a step that does not exist: {number} of {n_steps}"
    if number != position:
        numbers = [number for number, _ in said.steps]
        out_of_order = number < position or position in numbers
        return f"labels out of order: {numbers[:9]}" if out_of_order else f"missing steps: step {position} has no label"
    return None


def _short(value: object) -> str:
    return repr(value if isinstance(value, str | int | float | None) else type(value).__name__)[:_SHOWN]


def _read(text: str) -> _Said | Invalid:
    begun = _BEGUN.match(text)
    answer = text if begun else text.rpartition(_THOUGHT)[2]
    fenced = _FENCE.match(answer)
    whole = _decode(fenced[1] if fenced else answer)
    if isinstance(whole, dict):
        return _from_object(whole)
    line, rest = Invalid("no label: neither JSON with `steps` nor `Final Decision:`"), answer
    if answer.lstrip().startswith(_THINKING):
        return line
    markers = [] if begun else list(_MARKER.finditer(answer))
    if markers:
        rest = answer[markers[-1].end() :]
        line = _from_line(rest.lstrip(_MARKUP + "\n"), answer[: markers[-1].start()])
    found = _embedded(rest) if isinstance(line, Invalid) else []
    if not found:
        return line
    if any(other.get("steps") != found[-1].get("steps") for other in found):
        return Invalid("more than one verdict")
    return _from_object(found[-1])


def _from_object(answer: dict[str, Any]) -> _Said | Invalid:
    given, analysis = answer.get("steps"), answer.get("analysis")
    if not isinstance(given, list) or not all(type(step) is dict for step in given):
        return Invalid("wrong schema: `steps` is no list of objects")
    steps, corrections = [], {}
    for step in given:
        number = _integer(step.get("step"))
        steps.append((number, step.get("label")))
        correction = step.get("correction")
        if isinstance(correction, str) and correction.strip() and isinstance(number, int):
            corrections[number] = correction.strip()
    return _Said(steps, analysis if isinstance(analysis, str) else None, corrections)


def _integer(value: object) -> object:
    """A number that was written as a text is one too."""
    if not isinstance(value, str):
        return value
    written = value.strip()
    return int(written) if re.fullmatch(r"[0-9]{1,6}", written) else value


def _from_line(line: str, before: str) -> _Said | Invalid:
    """`Step 1: correct; Step 2: incorrect`, also with one step per line; and what stood before it."""
    steps: list[tuple[object, object]] = []
    for segment in (part.strip(_MARKUP + "-•") for part in _BETWEEN.split(line)):
        if not segment:
            continue
        named = len(re.findall(r"\bsteps?\b", segment, re.IGNORECASE))
        if named > 1:
            return Invalid("more than one step in a segment")
        match = _SEGMENT.fullmatch(segment)
        if match is None:
            return Invalid("text after the labels" if steps else "no label after `Final Decision:`")
        steps.append((_integer(match["number"]), match["label"]))
    cuts = list(_CORRECTION.finditer(before))
    ends = [cut.start() for cut in cuts[1:]] + [len(before)] * bool(cuts)
    corrections = {int(cut[1]): before[cut.end() : end].strip(" \n*#") for cut, end in zip(cuts, ends, strict=True)}
    rationale = before[: cuts[0].start()] if cuts else before
    return _Said(steps, rationale.strip(" \n*#") or None, {n: text for n, text in corrections.items() if text})


def _decode(text: str) -> object:
    """A JSON value that is all of a text, written as models write them; None if there is none."""
    value = _loads(text)
    if value is None and _OBJECT.match(text.lstrip()):
        value = _loads(_mended(text))
    return value


def _loads(text: str) -> object:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _mended(text: str) -> str:
    """Without trailing commas, and with backslashes doubled that escape nothing, as those of LaTeX."""
    escaped = _BACKSLASH.sub(lambda m: m[0] if m[1] and (m[1] in '"\\/bfnrt' or m[1][1:]) else "\\" + m[0], text)
    return _STRING_OR_COMMA.sub(lambda m: "" if m[0] == "," else m[0], escaped)


def _embedded(text: str) -> list[dict[str, Any]]:
    """The objects amid prose that have `steps`, in order; none if one is not whole, since it may quote others."""
    mended, found, at = _mended(text), [], 0
    while match := _OBJECT.search(mended, at):
        try:
            value, at = _DECODER.raw_decode(mended, match.start())
        except (ValueError, RecursionError):
            return []
        found += [value] if "steps" in value else []
    return found
