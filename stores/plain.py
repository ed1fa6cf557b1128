"""Model output is data: it must not drive the terminal that shows it."""

import re

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text with terminal control and text-direction characters written out (`\\x1b`): model output is data."""
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], text)
