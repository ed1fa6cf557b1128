"""Words of a text, so that copies which differ in case, spaces, punctuation or Unicode forms are equal.

Mathematics must survive it: `3+4` and `3-4`, `(2+3)*4` and `2+3*4`, `1.5` and `15` stay different. So operators and
brackets are tokens, `f'(x)` keeps its prime and `.5` its point, and only punctuation of sentences goes. `words` are the
tokens that are no symbols: two texts of the same words may still differ in symbols.
"""

import functools
import re
import unicodedata

_SYMBOLS = r"+\-*/^=<>|%\\_()\[\]{}!:&"
_DROPPED = r"\s.,;?$'\"`~#@“”‘’„‚«»‹›…–—‐‑¿¡·•。、"
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_POINT = r"(?<!\w)\.\d+"
_PRIME = r"(?:(?<=\b[^\W\d_])|(?<=\b[^\W\d_]'))'(?!\w)"
"""After a single letter; other apostrophes go."""
_TOKEN = re.compile(
    rf"{_POINT}|{_PRIME}|\d+(?:[.:]\d+)*[^{_DROPPED}{_SYMBOLS}{_IDEOGRAPHS}]*|[{_IDEOGRAPHS}]|[{_SYMBOLS}]"
    rf"|[^{_DROPPED}{_SYMBOLS}{_IDEOGRAPHS}]+"
)
_OF_SENTENCES = re.compile(r"(?<!\d):|:(?!\d)|(?<![\d)])(?<!\b[^\W\d_])!|(?<=[^\W\d_])-(?=[^\W\d_])")
"""Colons but for those of ratios, exclamation marks but for factorials (`5!`, `n!`), hyphens between letters."""
_PLAIN = str.maketrans({"\u2212": "-", "’": "'", "\u2032": "'"})


def tokens(text: str) -> list[str]:
    """Words, numbers, single operators and brackets, and single ideographs, in order."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", "".join(map(_spelt_out, text))).translate(_PLAIN)
    return _TOKEN.findall(_OF_SENTENCES.sub(" ", text.casefold()))


@functools.cache
def _spelt_out(character: str) -> str:
    """What NFKC would join to its neighbours: `5²` is no 52, `1½` no 11/2. Characters that nobody sees are nothing."""
    if unicodedata.category(character) == "Cf":
        return ""
    kind, _, rest = unicodedata.decomposition(character).partition(" ")
    if kind in ("<super>", "<sub>", "<fraction>"):
        written = "".join(chr(int(code, 16)) for code in rest.split()).replace("\u2044", "/")
        return {"<super>": "^", "<sub>": "_", "<fraction>": " "}[kind] + written
    return character


def words(found: list[str]) -> list[str]:
    """The tokens that are no symbols."""
    return [token for token in found if len(token) > 1 or token.isalnum()]
