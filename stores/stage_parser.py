"""The command line that all stages share."""

import argparse

from schemas.params import STAGES

PILOT = 20
"""Answers of a pilot, if nobody says how many."""


def stage_parser(section: str, has_buckets: bool, estimates: bool, more: str = "") -> argparse.ArgumentParser:
    """The command line of a stage; its mistakes exit with 2. `more`: the usage of arguments that the caller adds."""
    buckets = " [--bucket B/N]" if has_buckets else ""
    pilot = " [--estimate [N]]" if estimates else ""
    takes = (
        f"RUN{buckets}{pilot}{more}   (a run under '{section}' in params.yaml)"
        if section in STAGES
        else "  (no arguments)"
    )
    prog = f"python -m <package>.{section}"
    parser = argparse.ArgumentParser(prog=prog, usage=f"{prog} {takes}", allow_abbrev=False)
    if section in STAGES:
        parser.add_argument("run", metavar="RUN", help=f"a run under '{section}' in params.yaml")
    if has_buckets:
        parser.add_argument(
            "--bucket",
            metavar="B/N",
            action="append",
            default=[],
            help="build only the problems in part B (from 0) of N = 16 or 256 equal parts; the command without it joins"
            " what is there and builds the rest",
        )
    if estimates:
        parser.add_argument(
            "--estimate",
            metavar="N",
            nargs="?",
            const=PILOT,
            type=_count,
            help=f"ask only N of the questions (default {PILOT}), say what the others will cost, and write no table",
        )
    return parser


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text}: not a number of answers")
    return int(text)
