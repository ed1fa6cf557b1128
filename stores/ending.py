"""Requests to end (`kill`, a closed terminal) unwind the program, as Ctrl-C does, so that it leaves nothing behind."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

_REQUESTS_TO_END = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """A context in which a request to end raises SystemExit; what is ignored, as by `nohup`, stays ignored."""
    heeded = [number for number in _REQUESTS_TO_END if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
