"""Template files: found by name, known by their hash, filled in one pass. Shared by what asks models and judges."""

import difflib
import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

_PLACE = re.compile(r"\{([a-z_]+)\}")
_BUILDERS = Path(__file__).parent
T = TypeVar("T", bound=BaseModel)


def load(kind: type[T], name: str, directory: Path) -> tuple[T, str, str]:
    """A template, its name with the first 8 hex digits of the file's SHA-256, and the file as an error names it.

    Raises ValueError as `read_file` does, and for a file that is no template of this kind.
    """
    file, content = read_file(name, directory)
    try:
        template = kind.model_validate(yaml.safe_load(content))
    except (yaml.YAMLError, ValidationError) as error:
        raise ValueError(f"template: {file} is no template: {' '.join(str(error).split())}") from None
    return template, f"{name.partition('@')[0]}@{_hash(content)}", file


def read_file(name: str, directory: Path) -> tuple[str, bytes]:
    """The file of a template as an error names it, and its content.

    `name` is that of a file in `directory`, or `package:file@hash` for one in an importable package of the user's. The
    hash must be the file's: params say which text was asked, and DVC sees that it changed.

    Raises ValueError for a name without a file, and a hash that is not the file's.
    """
    return _own(name) if ":" in name else _shipped(name, directory)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _shipped(name: str, directory: Path) -> tuple[str, bytes]:
    """The name of a file of the directory and its content."""
    known = sorted(file.stem for file in directory.glob("*.yaml"))
    if name not in known:
        inside = directory.is_relative_to(_BUILDERS)
        place = f"builders/{directory.relative_to(_BUILDERS).as_posix()}" if inside else str(directory)
        raise ValueError(f"template: no '{name}' in {place} ({_hint(name, known)})")
    return f"{name}.yaml", (directory / f"{name}.yaml").read_bytes()


def _own(name: str) -> tuple[str, bytes]:
    """The name of a file of a user's package and its content, which has the hash that `name` states."""
    written, _, stated = name.partition("@")
    package, _, file = written.partition(":")
    try:
        directory = resources.files(package)
    except (ModuleNotFoundError, ValueError, TypeError):
        remedy = "install it, or put it into the project's directory"
        raise ValueError(f"template: cannot import the package '{package}'; {remedy}") from None
    known = sorted(entry.name.removesuffix(".yaml") for entry in directory.iterdir() if entry.name.endswith(".yaml"))
    if file not in known:
        raise ValueError(f"template: the package '{package}' has no '{file}.yaml' ({_hint(file, known)})")
    content = (directory / f"{file}.yaml").read_bytes()
    if stated != _hash(content):
        have = f"'{stated}'" if stated else "no hash"
        raise ValueError(
            f"template: write '{written}@{_hash(content)}', the hash of the file as it is now (have {have})"
        )
    return f"{package}/{file}.yaml", content


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean '{near[0]}'?" if near else f"have {', '.join(known) or 'none'}"


def fill(text: str, **values: str) -> str:
    """The text with `{name}` replaced for all that is given, in one pass: values are never read again."""
    return _pattern(text) % _Values(values)


class _Values(dict[str, str]):
    """Values by name; a place that has none stays as it is."""

    def __missing__(self, name: str) -> str:
        return f"{{{name}}}"


@lru_cache(1000)
def _pattern(text: str) -> str:
    """A template with `%(name)s` for each of its places."""
    cut = _PLACE.split(text)
    return "".join(f"%({part})s" if i % 2 else part.replace("%", "%%") for i, part in enumerate(cut))


def format_choices(choices: Sequence[str]) -> str:
    """One line per option: `(A) …`."""
    assert len(choices) <= 26, "options are lettered A to Z"
    return "\n".join(f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(choices))
