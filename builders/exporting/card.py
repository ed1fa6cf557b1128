"""The data set card of a release: `README.md` with the front matter that the Hub and `datasets` read."""

from pathlib import Path
from typing import Any

from builders.exporting.card_text import body, plain, stamped
from builders.exporting.pictures import draw_pictures
from builders.exporting.provenance import write_provenance
from builders.exporting.shards import SPLIT, Shards
from builders.exporting.tally import Tally
from schemas.sections_export import ExportRun
from stores.release_files import CARD, read_provenance

_SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
_TAGS = {"pairs": ("dpo", "preference"), "step_pairs": ("dpo", "preference", "step-dpo"), "demos": ("sft",),
         "samples": ("rejection-sampling",), "rewards": ("verifiable-rewards",), "step_labels": ("prm",)}  # fmt: skip


def write_card(
    directory: Path, release: ExportRun, record: dict[str, Any], tallies: dict[str, Tally], shards: dict[str, Shards]
) -> None:
    """Writes the card, and its pictures beside it."""
    from huggingface_hub import DatasetCardData

    meta = DatasetCardData(**front_matter(directory, release, record, shards))
    text = body(record, release.description, release.test_answers, draw_pictures(directory, tallies))
    head = f"---\n{meta.to_yaml()}\n---\n\n# {plain(title(release, record))}"
    (directory / CARD).write_text(f"{head}\n\n{text}\n", encoding="utf-8")


def stamp(directory: Path, revision: str, name: str | None = None) -> None:
    """Writes the revision (a full commit id) that a release's rows are of into its record and its card.

    `name` is the repository where it is published. Shards stay as they are. Raises ValueError for a directory that is
    no release of ours.
    """
    record = read_provenance(directory)
    card = directory / CARD
    card.write_text(stamped(card.read_text(encoding="utf-8"), revision, name), encoding="utf-8")
    write_provenance(directory, record | {"revision": revision})


def title(release: ExportRun, record: dict[str, Any]) -> str:
    """In one line, so that front matter ends where it ends."""
    return " ".join((release.pretty_name or record["release"]).split())


def front_matter(
    directory: Path, release: ExportRun, record: dict[str, Any], shards: dict[str, Shards]
) -> dict[str, Any]:
    """The card's fields."""
    tags = dict.fromkeys(tag for config in shards for tag in _TAGS[config])
    return {
        "license": record["licence"],
        "language": release.language,
        "pretty_name": title(release, record),
        "task_categories": ["text-generation"],
        "tags": ["pairwright", "reasoning", *tags],
        "size_categories": [size_category(sum(found.rows for found in shards.values()))],
        "source_datasets": sorted({row["source"] for rows in record["licences"].values() for row in rows}),
        "annotations_creators": ["machine-generated"],
        "configs": [_config(config, default=not number) for number, config in enumerate(shards)],
        "dataset_info": [_info(directory, config, found) for config, found in shards.items()],
    }


def size_category(rows: int) -> str:
    """The Hub's name of a size."""
    names = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B"]
    return names[sum(rows >= size for size in _SIZES)]


def _config(config: str, default: bool) -> dict[str, Any]:
    files = [{"split": SPLIT, "path": f"{config}/{SPLIT}-*.parquet"}]
    return {"config_name": config, "data_files": files} | ({"default": True} if default else {})


def _info(directory: Path, config: str, shards: Shards) -> dict[str, Any]:
    import pyarrow.parquet as pq
    from datasets import Features

    schema = pq.read_schema(directory / next(iter(shards.files)))
    split = {"name": SPLIT, "num_bytes": shards.raw_bytes, "num_examples": shards.rows}
    return {
        "config_name": config,
        "features": Features.from_arrow_schema(schema)._to_yaml_list(),
        "splits": [split],
        "download_size": shards.file_bytes,
        "dataset_size": shards.raw_bytes,
    }
