"""The command line of the training stages: a run of params, on the tables of the workspace or on a release."""

import sys
from collections.abc import Callable, Sequence

from stores.stage import Stage, errors_as_exits, execute
from stores.stage_parser import stage_parser
from train import parallel
from train.release import Release
from train.tables import Tables
from train.texts import Source

Build = Callable[[Stage, Release | None], None]


def train_stage(section: str, build: Build, argv: Sequence[str] | None = None) -> None:
    """The `main` of a training stage, like `stores.stage.run_stage`, with `--data` beside the run, in as many processes
    as the environment says (`train.parallel`).
    """
    parser = stage_parser(section, has_buckets=False, estimates=False, more=" [--data DIR [--data-run R]]")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="train from this release (what `pairwright materialize` or `export` writes, or a published one as"
        " hf://ORG/NAME@v1.0) instead of the tables in data/",
    )
    parser.add_argument(
        "--data-run",
        metavar="R",
        help="the run of the release to train from (default: the one that params.yaml names, or the only one)",
    )
    arguments = parser.parse_args(argv)
    if arguments.data_run and not arguments.data:
        parser.error("--data-run: give --data, the release that has it")
    with errors_as_exits(section, arguments.run):
        parallel.relaunch(f"train.{section}", sys.argv[1:] if argv is None else argv)
        with parallel.group():
            parallel.offloads()  # a mistake is found before anything takes long
            release = Release.open(arguments.data, arguments.data_run) if arguments.data else None
            if parallel.leads():
                execute(section, arguments.run, lambda stage: build(stage, release))
            else:
                build(Stage(section, arguments.run), release)


def source_of(stage: Stage, table: str, run: str, release: Release | None) -> Source:
    """The run of a table that a stage trains from; `run` is what its params say."""
    return Tables(stage, table, run) if release is None else release.source(table, run)
