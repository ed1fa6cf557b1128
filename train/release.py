"""The texts of a release, on a machine that need have neither DVC nor DuckDB.

A release is what the export stage, `pairwright materialize` and `pairwright publish` write: Parquet shards per config,
and `provenance.json`, which says where they come from. A published one (`hf://ORG/NAME@v1.0`) is fetched into the Hub's
own cache. Every shard is compared with its SHA-256 in `provenance.json` before a row of it is read.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stores.hub_release import is_hub_url, open_hub_release
from stores.release_files import PROVENANCE, data_files, read_provenance
from stores.verified import SHA256, damaged
from train.texts import Asked, PairText, Span, Text, spread

_CONFIGS = {"pairs": ("pairs", "step_pairs"), "demos": ("demos",)}
"""Table -> the configs that hold its runs."""
_PROMPT = ("run", "prompt_id", "prompt_messages", "prefill", "rendering")
_SIDES = tuple(f"{side}_{field}" for side in ("chosen", "rejected") for field in Span._fields[1:])
_PAIRS = (*_PROMPT, "rank", "chosen", "rejected", *_SIDES)
_DEMOS = (*_PROMPT, "sample_id", "completion", "eos")


class Release:
    """An opened release. `name` is the user's for it; `files` gives a config's shards, once they are verified; `run` is
    the one to train from, if the user chose one; `published` says where it was fetched from, if it was.
    """

    def __init__(
        self,
        name: str,
        provenance: dict[str, Any],
        files: Callable[[str], list[Path]],
        run: str | None = None,
        published: dict[str, str] | None = None,
    ):
        self.name, self.files, self.run, self.published = name, files, run, published
        self.revision, self.configs = provenance.get("revision"), provenance["configs"]

    @classmethod
    def open(cls, address: str, run: str | None = None) -> "Release":
        """A directory, or a published release as `hf://ORG/NAME@VERSION`.

        Raises ValueError for what is no release, and for one of a format that is not read here.
        """
        if is_hub_url(address):
            found = open_hub_release(address)
            published = {"repo": found.name, "revision": address.partition("@")[2] or "main", "commit": found.commit}
            return cls(address, found.provenance, found.files, run, published)
        directory = Path(address)
        provenance = read_provenance(directory)
        return cls(address, provenance, partial(_verified, directory, provenance), run)

    def runs(self, table: str) -> dict[str, str]:
        """Run of a table -> the config that holds it."""
        held = (config for config in _CONFIGS[table] if config in self.configs)
        return {run: config for config in held for run in self.configs[config].get("runs", ())}

    def source(self, table: str, default: str) -> "ReleaseRun":
        """The run to train from: the user's choice, else the one that the checkout's params name, else the only one.

        Raises ValueError where there is none such.
        """
        runs = self.runs(table)
        have = ", ".join(f"'{run}'" for run in sorted(runs))
        if not runs:
            configs = ", ".join(f"'{config}'" for config in sorted(self.configs)) or "none"
            raise ValueError(f"{self.name}: no {table} in this release (have {configs}); take one that has some")
        if self.run is not None and self.run not in runs:
            raise ValueError(f"{self.name}: no run '{self.run}' of {table} (have {have}); name one in --data-run")
        if self.run is None and default not in runs and len(runs) > 1:
            raise ValueError(f"{self.name}: no run '{default}' of {table} (have {have}); choose one with --data-run")
        run = self.run or (default if default in runs else next(iter(runs)))
        if run != default:
            print(f"{self.name}: trains from its run '{run}', not '{default}'", file=sys.stderr)
        return ReleaseRun(self, table, run)


class ReleaseRun:
    """A run of `pairs` or `demos` in a release (see `train.texts.Source`)."""

    def __init__(self, release: Release, table: str, run: str):
        self.release, self.run, self.config = release, run, release.runs(table)[run]
        self.name, self.shorten = f"{release.name}: {table} run '{run}'", "train from a release without it"
        self.record: dict[str, Any] = {
            "table": table,
            "run": run,
            "texts": release.configs[self.config].get("texts"),
            "revision": release.revision,
            "release": release.published,
        }
        self._prompts: dict[str, Asked] = {}

    def pairs(self, limit: int | None = None) -> list[PairText]:
        rows = self._rows(_PAIRS, ("prompt_id", "rank"), limit)
        return [PairText(row["rank"], _side(row, "chosen"), _side(row, "rejected")) for row in rows]

    def demos(self) -> list[Text]:
        return [_demo(row) for row in self._rows(_DEMOS, ("prompt_id", "sample_id"), None)]

    def prompt(self, prompt_id: str) -> Asked:
        return self._prompts[prompt_id]

    def _rows(self, columns: Sequence[str], key: tuple[str, str], limit: int | None) -> list[dict[str, Any]]:
        """The run's rows in the order of the table's key; of `limit`, only so many, evenly spaced."""
        shards = [_open(path, columns) for path in self.release.files(self.config)]
        order = self._order(shards, key)
        wanted = order[spread(len(order), limit)]
        places = np.argsort(wanted)  # rows come as they lie; a place is where a row belongs
        numbers, rows = wanted[places], [dict[str, Any]()] * len(wanted)
        for start, batch in _batches(shards, columns):
            first, last = np.searchsorted(numbers, (start, start + len(batch)))
            few = batch.take(pa.array(numbers[first:last] - start)).to_pylist()
            for place, row in zip(places[first:last].tolist(), few, strict=True):
                asked = Asked(row.pop("prompt_messages"), row.pop("prefill"), row.pop("rendering"))
                self._prompts.setdefault(row["prompt_id"], asked)
                rows[place] = row
        return rows

    def _order(self, shards: list[pq.ParquetFile], key: tuple[str, str]) -> np.ndarray:
        """Numbers of the run's rows within the config, in the order of the key. Raises ValueError for none at all."""
        keys = pa.concat_tables(shard.read(["run", *key]) for shard in shards)
        numbered = keys.append_column("number", pa.array(np.arange(len(keys))))
        mine = numbered.filter(pc.equal(numbered["run"], self.run))
        if not len(mine):
            raise ValueError(f"{self.name} is empty: nothing to train on; choose another run or release")
        return mine.sort_by([(column, "ascending") for column in key])["number"].to_numpy()


def _side(row: dict[str, Any], side: str) -> Text:
    span = Span(row["prompt_id"], *(row[f"{side}_{field}"] for field in Span._fields[1:]))
    return Text(span, _content(row[side]))


def _demo(row: dict[str, Any]) -> Text:
    text = _content(row["completion"])
    return Text(Span(row["prompt_id"], row["sample_id"], 0, len(text), row["eos"]), text)


def _content(value: str | list[dict[str, str]]) -> str:
    """A completion's text, in the standard format or the conversational one."""
    return value if isinstance(value, str) else value[0]["content"]


def _batches(shards: list[pq.ParquetFile], columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of some columns, each with the number of its first row."""
    start = 0
    for shard in shards:
        for batch in shard.iter_batches(columns=list(columns)):
            yield start, batch
            start += len(batch)


def _open(path: Path, columns: Sequence[str]) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not a Parquet file ({' '.join(str(error).split())}); write the release anew"
        ) from None
    missing = [column for column in columns if column not in file.schema_arrow.names]
    if missing:
        raise ValueError(f"{path}: no column '{missing[0]}', which training needs; write the release with Pairwright")
    return file


def _verified(directory: Path, provenance: dict[str, Any], config: str) -> list[Path]:
    """The shards of a config. Raises ValueError for one that is missing, or is not what was written."""
    remedy = "copy the release again, or write it anew with `pairwright materialize`"
    wanted = {directory / file: f"{SHA256}{sha256}" for file, sha256 in data_files(provenance, config).items()}
    for path in wanted:
        if not path.is_file():
            raise ValueError(f"{path}: missing, though {PROVENANCE} names it; {remedy}")
    for path in damaged(wanted):
        raise ValueError(f"{path}: damaged: its SHA-256 is not the one in {PROVENANCE}; {remedy}")
    return list(wanted)
