"""One release: every config's shards, the card with its pictures, and the provenance, in a new directory."""

import errno
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from builders.exporting import licences
from builders.exporting.card import write_card
from builders.exporting.columns import Column, columns
from builders.exporting.plain_rows import reward_rows, sample_rows, step_label_rows
from builders.exporting.preferences import demo_rows, pair_rows
from builders.exporting.provenance import provenance, write_provenance
from builders.exporting.rows import Context
from builders.exporting.shards import Shards, write_shards
from builders.exporting.tally import Tally
from builders.exporting.texts import Renderer
from schemas.sections_export import CONFIGS, ExportRun, messages_in
from stores.store import Store

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
Rows = Callable[[Context, str, str, Tally], Iterator[pa.Table]]
ROWS: dict[str, Rows] = {
    "pairs": pair_rows,
    "step_pairs": pair_rows,
    "demos": demo_rows,
    "samples": sample_rows,
    "rewards": reward_rows,
    "step_labels": step_label_rows,
}
"""Config -> the rows of one of its runs."""


class Written(NamedTuple):
    """A release that has been written."""

    record: dict[str, Any]
    tallies: dict[str, Tally]
    shards: dict[str, Shards]


def write_release(
    store: Store,
    name: str,
    release: ExportRun,
    directory: Path,
    place: str,
    model: Path | None,
    own_use: bool = False,
) -> Written:
    """Writes a release into an empty directory. The same tables give the same bytes.

    `place` is where the release is asked for, for messages; `model` a model directory with the chat template. For one's
    `own_use` the licence is `unknown` where the sources do not settle it.

    Raises ValueError for runs that are not built, ids that do not resolve, prompts that do not fit the format, and a
    licence that is laxer than that of a source; OSError, saying what to do, where there is no room.
    """
    try:
        return _written(store, name, release, directory, place, model, own_use)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        made = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6
        remedy = "free some, or write it elsewhere"
        raise OSError(error.errno, f"{place}: no room for the release after {made:,.0f} MB; {remedy}") from None


def _written(
    store: Store, name: str, release: ExportRun, directory: Path, place: str, model: Path | None, own_use: bool
) -> Written:
    tallies: dict[str, Tally] = {}
    shards: dict[str, Shards] = {}
    for config in (c for c in CONFIGS if release.runs(c)):
        tallies[config] = Tally()
        tables = _tables(store, release, config, Renderer(model, place), place, tallies[config])
        shards[config] = write_shards(directory, config, _columns(release, config), tables, release.shard_mb * 10**6)
    sources = {licence for tally in tallies.values() for _, licence in tally.licences}
    if own_use:
        licence = licences.covering(sources) or "unknown"
    else:
        licence = licences.settle(release.licence, sources, f"{place}.licence")
    record = provenance(store, name, release, tallies, shards, licence)
    write_provenance(directory, record)
    write_card(directory, release, record, tallies, shards)
    return Written(record, tallies, shards)


def _columns(release: ExportRun, config: str) -> list[Column]:
    return columns(config, messages_in(release, config))


def _tables(
    store: Store, release: ExportRun, config: str, renderer: Renderer, place: str, tally: Tally
) -> Iterator[pa.Table]:
    context = Context(store, place, renderer, messages_in(release, config), release.test_answers)
    return chain.from_iterable(ROWS[config](context, config, run, tally) for run in release.runs(config))
