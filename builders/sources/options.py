"""Options of multiple-choice questions in whatever form a source has them, and the letter of the correct one.

Our normal form: `choices` are the options' texts in order, and the answer is `A` for the first, `B` for the second, ….
"""

import ast
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from builders.sources.base import number_text

_STYLES = (r"(?:^|, ?){label} \) ?", r"(?:^|[\s,;])\(?{label}(?:\)|\.(?=\s))\s*")
"""How a label stands before its option, strictest first: `a ) 38 , b ) 40` (MathQA), and `A) 38 B) 40` or `(1) …`."""
_SERIES = ("abcdefghijklmnopqrstuvwxyz", "123456789")
_OWN_LABEL = r"\s*\(?{label}\s?(?:\)|\.(?=\s))\s*"
_WRAPPED = re.compile(r"[\s(\[]*(.*?)[\s).\]:]*")


class Options(NamedTuple):
    """The options of a question: their texts, and the labels that the source gives them."""

    texts: list[str]
    labels: list[str]

    def letter(self, key: str) -> str | None:
        """`A`, `B`, … of the option that a key names, by its label or by its whole text; None if it names none."""
        bare = _WRAPPED.fullmatch(key)
        name = bare.group(1).lower() if bare else ""
        labels = [label.lower() for label in self.labels]
        if name in labels:
            return ascii_uppercase[labels.index(name)]
        exact = [i for i, option in enumerate(self.texts) if option.strip() == key.strip()]
        return ascii_uppercase[exact[0]] if len(exact) == 1 else None


def read_options(value: Any) -> Options | None:
    """The options in a text, a list or a mapping; None where there are not two to 26 of them, all of them texts.

    Understood are `a ) 38 , b ) 40`, `A) 38 B) 40`, the text of a Python or JSON list, lists of texts (with or without
    labels, as `A)38`), of numbers or of `{label, text}`, the mapping `{text: […], label: […]}`, and `{label: text}`.
    """
    if isinstance(value, str):
        found = _listed(value) if value.lstrip().startswith("[") else _labelled(value)
    elif isinstance(value, Mapping):
        found = _mapped(value)
    else:
        found = _in_list(value) if isinstance(value, Sequence) else None
    usable = found is not None and 2 <= len(found.texts) <= len(ascii_uppercase)
    return found if usable and len(set(found.labels)) == len(found.labels) == len(found.texts) else None


def _listed(text: str) -> Options | None:
    try:
        return _in_list(ast.literal_eval(text.strip()))
    except (ValueError, SyntaxError, TypeError):  # the last for what no list of options holds: an unhashable key
        return None


def _in_list(items: Sequence[Any]) -> Options | None:
    if all(isinstance(item, Mapping) and {"label", "text"} <= set(item) for item in items):
        return _options([item["text"] for item in items], [item["label"] for item in items])
    texts = _texts(items)
    if texts is None or len(texts) > len(ascii_uppercase):
        return None
    return Options(unlabelled(texts), list(ascii_uppercase[: len(texts)]))


def _options(given: Sequence[Any], named: Sequence[Any]) -> Options | None:
    texts, labels = _texts(given), _texts(named)
    return Options(texts, labels) if texts is not None and labels is not None else None


def _texts(items: Any) -> list[str] | None:
    """Texts as they are and numbers as texts; None if it is no list, or another value is among them."""
    if isinstance(items, str) or not isinstance(items, Sequence):
        return None
    texts = [number_text(str(item)) if _is_number(item) else item for item in items]
    return texts if all(isinstance(text, str) for text in texts) else None


def _is_number(item: object) -> bool:
    return isinstance(item, int | float) and not isinstance(item, bool) and item == item


def _mapped(value: Mapping[str, Any]) -> Options | None:
    if set(value) == {"text", "label"}:
        return _options(value["text"], value["label"])
    given = {label: text for label, text in value.items() if text is not None}
    return _options(list(given.values()), list(given))


def unlabelled(options: Sequence[str]) -> list[str]:
    """The options without their own labels, where all of them begin with theirs: `["A)21", "B)7"]` is `["21", "7"]`."""
    for series in _SERIES:
        found = [
            re.match(_OWN_LABEL.format(label=label), option, re.IGNORECASE)
            for label, option in zip(series, options, strict=False)
        ]
        if len(found) == len(options) and all(found):
            return unlabelled([option[match.end() :] for match, option in zip(found, options, strict=True) if match])
    return [option.strip() for option in options]


def _labelled(text: str) -> Options | None:
    """Options that stand one after the other, each behind its label, from the first label on."""
    for style in _STYLES:
        for series in _SERIES:
            found = _walk(text, style, series)
            if len(found) > 1:
                bare = [re.sub(rf"^{label} \) ", "", option) for label, option in zip(series, found, strict=False)]
                return Options(unlabelled(bare), list(series[: len(found)]))
    return None


def _walk(text: str, style: str, series: str) -> list[str]:
    """What stands behind each label up to the next one; nothing where a label is missing on the way."""
    starts = []
    for label in series:
        match = re.compile(style.format(label=label), re.IGNORECASE).search(text, starts[-1].end() if starts else 0)
        if match is None:
            break
        starts.append(match)
    if not starts or text[: starts[0].start()].strip():
        return []
    beyond = series[len(starts) + 1 : len(starts) + 3]
    if beyond and re.compile(style.format(label=f"[{beyond}]"), re.IGNORECASE).search(text, starts[-1].end()):
        return []
    ends = [match.start() for match in starts[1:]] + [len(text)]
    return [text[match.end() : end].strip(" ,;\n\t") for match, end in zip(starts, ends, strict=True)]
