"""Named queries: `.sql` files whose header says what one row is and which parameters there are.

    -- One row per pairs run: how many pairs are long.
    -- $run = null: only this run
    -- $chars = 1000: least length of the chosen span
    select …

The header is the comment at the top. A default is a number, `true`, `false`, a 'text', or `null` (then values are
texts); it says how `--set` reads a value, too. Pairwright ships those of `stores/queries`; a project's own lie in
`queries/`, and go before a shipped one of the same name.
"""

import difflib
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SHIPPED = Path(__file__).parent / "queries"
OWN = "queries"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PARAMETER = re.compile(r"-- \$(\w+) = ('(?:[^']|'')*'|[^:\s]+): (.+)")
_USED = re.compile(
    r"'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|\"[^\"]*\"|--[^\n]*|/\*.*?\*/|\$(?P<used>[A-Za-z_]\w*)", re.DOTALL
)
"""Texts, names and comments, in which a `$` means nothing, or a parameter."""


class Parameter(NamedTuple):
    """What may be set: its default, and the default as the header writes it."""

    name: str
    default: Any
    written: str
    meaning: str


class NamedQuery(NamedTuple):
    """One row per query: what its header says, and its text."""

    name: str
    path: Path
    description: str
    parameters: tuple[Parameter, ...]
    text: str

    @property
    def shipped(self) -> bool:
        return self.path.parent == SHIPPED

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A value for each parameter: those given, else the defaults.

        Raises ValueError for a parameter that the query does not have.
        """
        known = {parameter.name: parameter.default for parameter in self.parameters}
        for name in given:
            if name not in known:
                raise ValueError(f"{self.name}: no parameter '{name}'{near(name, list(known))}")
        return known | dict(given)

    def parsed(self, settings: Sequence[str]) -> dict[str, Any]:
        """Values from texts such as `threshold=0.9`, each read as its parameter's default is.

        Raises ValueError for another form, an unknown parameter, or a value of another kind.
        """
        found = {}
        for setting in settings:
            name, mark, text = setting.partition("=")
            if not mark:
                raise ValueError(f"--set {setting}: give NAME=VALUE, as in --set run=irpo_0")
            default = self.values({name: None}) and next(p.default for p in self.parameters if p.name == name)
            found[name] = _read(name, text, default)
        return found


def named_queries(root: Path) -> dict[str, NamedQuery]:
    """Name -> query, of the shipped ones and the project's own.

    Raises ValueError for a file whose name is none, or whose header does not fit its query.
    """
    files = [*sorted(SHIPPED.glob("*.sql")), *sorted((root / OWN).glob("*.sql"))]
    found = {path.stem: parse(path) for path in files}
    return dict(sorted(found.items()))


def find(root: Path, name: str) -> NamedQuery:
    """One query by name.

    Raises ValueError if there is none, saying which one is close.
    """
    for path in (root / OWN / f"{name}.sql", SHIPPED / f"{name}.sql"):
        if _NAME.fullmatch(name) and path.is_file():
            return parse(path)
    raise ValueError(f"no query '{name}'{near(name, list(named_queries(root)))}")


def listing(queries: Iterable[NamedQuery]) -> str:
    """Names, what a row of each is, and the parameters, for a human."""
    lines = []
    for query in queries:
        lines += [query.name, *textwrap.wrap(query.description, 116, initial_indent="    ", subsequent_indent="    ")]
        lines += [f"    --set {p.name}={p.written}  {p.meaning}" for p in query.parameters]
    return "\n".join(lines)


def parse(path: Path) -> NamedQuery:
    """Reads a query's file.

    Raises ValueError, naming it, where a parameter has no default, a default no parameter, or the name is no name.
    """
    if not _NAME.fullmatch(path.stem):
        raise ValueError(f"{path}: names of queries are lower-case letters, digits and '_'; rename the file")
    text = _text(path)
    words, parameters = _header(path, text)
    used = {match["used"] for match in _USED.finditer(text) if match["used"]}
    given = {parameter.name for parameter in parameters}
    for name in sorted(used - given):
        raise ValueError(f"{path}: ${name} has no default; add `-- ${name} = null: what it means` to the header")
    for name in sorted(given - used):
        raise ValueError(f"{path}: ${name} is not used in the query; remove it from the header")
    return NamedQuery(path.stem, path, " ".join(words), parameters, text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no UTF-8 (byte {error.start}); save it as UTF-8") from None


def _header(path: Path, text: str) -> tuple[list[str], tuple[Parameter, ...]]:
    """The words that say what a row is, and the parameters."""
    words, parameters = list[str](), list[Parameter]()
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        if match := _PARAMETER.fullmatch(line.rstrip()):
            parameters.append(Parameter(match[1], _default(path, match[1], match[2]), match[2], match[3]))
        elif line.startswith("-- $"):
            raise ValueError(f"{path}: '{line}' is no parameter; write `-- $name = default: what it means`")
        else:
            words.append(line.removeprefix("--").strip())
    if not words:
        raise ValueError(f"{path}: the first line says what one row is, as in `-- One row per run: …`")
    return words, tuple(parameters)


def _default(path: Path, name: str, written: str) -> Any:
    if written in ("null", "true", "false"):
        return {"null": None, "true": True, "false": False}[written]
    if written.startswith("'"):
        return written[1:-1].replace("''", "'")
    try:
        return int(written) if re.fullmatch(r"[+-]?\d+", written) else float(written)
    except ValueError:
        raise ValueError(f"{path}: default of ${name} is no number, text, true, false or null: {written}") from None


def _read(name: str, text: str, default: Any) -> Any:
    if default is None or isinstance(default, str):
        return None if text == "null" and default is None else text
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError(f"--set {name}={text}: give true or false")
        return text == "true"
    try:
        return int(text) if isinstance(default, int) else float(text)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"--set {name}={text}: give {kind}") from None


def near(name: str, known: Sequence[str]) -> str:
    """What somebody may have meant, to be appended to an error."""
    close = difflib.get_close_matches(name, known, 1)
    return f" (did you mean '{close[0]}'?)" if close else f" (have {', '.join(known) or 'none'})"
