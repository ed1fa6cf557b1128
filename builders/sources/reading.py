"""The records of a run's source, from a local file or the Hub, one after the other."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from builders.hub import commit_hash, download
from builders.sources import SOURCES
from builders.sources.base import Fields, Record, Source, checked_text
from builders.sources.files import read_rows
from builders.sources.user_file import reader
from schemas.sections import ProblemsRun
from schemas.sections_steps import ImportedPairsRun
from schemas.slots import NO_FILE

_PLACE = re.compile(r"\\\{(split|subset)\\\}|\\\*")


def published(config: ProblemsRun, root: Path) -> Iterator[Record]:
    """The records of a source's split.

    Raises ValueError for a missing revision, file or split, and for rows that are not in the source's shape.
    """
    source = source_of(config)
    for label, path in source_files(config, source, root):
        for place, row in read_rows(path, label):
            record = source.parse(row, place)
            for choice in record.choices or ():
                checked_text(choice, "choices", place)
            yield record


def source_of(config: ProblemsRun) -> Source:
    """The run's source; `hub`, `files` and `licence` of the run take the place of its own."""
    if config.source == "file":
        assert config.columns is not None
        assert config.answer_kind is not None
        parse: Callable[[Fields, str], Record] = reader({**config.columns}, config.answer_kind)
        source = Source(config.name or _file_name(config), config.licence or "", config.answer_kind, None, "", parse)
    else:
        source = SOURCES[config.source]
    licence = config.licence or source.licence
    return source._replace(licence=licence, hub=config.hub or source.hub, files=config.files or source.files)


def _file_name(config: ProblemsRun) -> str:
    """What a user's data set is called where the run does not say it: as its file, or as its repository."""
    name = Path(config.path).name.split(".")[0] if config.path != NO_FILE else (config.hub or "").rpartition("/")[2]
    return re.sub(r"\W+", "_", name).lower() or "file"


def source_files(config: ProblemsRun | ImportedPairsRun, source: Source, root: Path) -> list[tuple[str, Path]]:
    """(name, path) of each file of a run. The names hold no directory of this machine, since rejects show them.

    Raises ValueError for a source that is not on the Hub, a revision that is not pinned, and a split without a file.
    """
    if config.path != NO_FILE:
        return [(config.path, root / config.path)]
    if source.hub is None:
        raise ValueError(f"path: '{source.name}' is not on the Hub; download its file and give the path")
    revision = commit_hash(config.revision, "revision")
    wanted = source.files.format(split="*", subset="*")
    snapshot = download(source.hub, "dataset", revision, [wanted], "source")
    found = sorted(snapshot.glob(wanted))
    if not found:
        raise ValueError(f"files: {source.hub} has no file '{wanted}' at {revision[:12]}; give the pattern of its own")
    names = {path.relative_to(snapshot).as_posix(): path for path in found}
    chosen = _chosen(list(names), source, config)
    return [(f"{source.hub}/{name}", names[name]) for name in chosen]


def _chosen(names: list[str], source: Source, config: ProblemsRun | ImportedPairsRun) -> list[str]:
    """Those of a repository's files that belong to the run's subset and split."""
    for field in ("subset", "split"):
        wanted, pattern = getattr(config, field, None), _parts(source.files)
        if wanted is None or f"{{{field}}}" not in source.files:
            continue
        parts = {name: match.group(field) for name in names if (match := pattern.fullmatch(name))}
        if wanted not in parts.values():
            have = ", ".join(sorted(set(parts.values())))
            raise ValueError(f"{field}: {source.hub} has no {field} '{wanted}' (have {have})")
        names = [name for name, part in parts.items() if part == wanted]
    return names


def _parts(pattern: str) -> re.Pattern[str]:
    """A pattern of files as a regular expression with groups `split` and `subset`."""
    return re.compile(_PLACE.sub(lambda m: f"(?P<{m[1]}>[^/]+?)" if m[1] else "[^/]*", re.escape(pattern)))
