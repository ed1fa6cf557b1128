"""`pairwright ledger …`: each command prints what one function of `stores.ledger_*` returns."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stores.printing import Format, FormatOption, print_rows

if TYPE_CHECKING:
    from stores.ledger_admin import Selection, Size

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_SECONDS = {"h": 3600, "d": 86_400, "w": 604_800}
Models = Annotated[list[str] | None, typer.Option("--model", help="Name of a model in params (repeatable).")]
Fingerprints = Annotated[list[str] | None, typer.Option("--fingerprint", help="Fingerprint of a model (repeatable).")]
Contexts = Annotated[list[str] | None, typer.Option("--context", help="First digits of a context (repeatable).")]
OlderThan = Annotated[str | None, typer.Option(help="Generated before that: 12h, 90d, 8w.")]
NewerThan = Annotated[str | None, typer.Option(help="Generated since then: 12h, 90d, 8w.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without, it is only shown what would be done.")]


@app.callback()
def _ledger() -> None:
    """Completions that were generated or paid for: size, prune, export, merge, redact."""


@app.command()
def size(
    model: Models = None, fingerprint: Fingerprints = None, context: Contexts = None, older_than: OlderThan = None,
    newer_than: NewerThan = None, format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Entries, tokens, bytes and price by context: a model under one setting."""
    from stores.ledger import Ledger
    from stores.ledger_admin import sizes

    ledger = Ledger()
    _print_sizes(sizes(ledger, _selection(model, fingerprint, context, older_than, newer_than)), format)
    if format is Format.table:
        print(f"{ledger.path}: {ledger.path.stat().st_size:,} bytes")


@app.command()
def prune(
    model: Models = None, fingerprint: Fingerprints = None, context: Contexts = None, older_than: OlderThan = None,
    unused: Annotated[bool, typer.Option("--unused", help="Of models that no checkout, branch or tag has.")] = False,
    yes: Yes = False, vacuum: Annotated[bool, typer.Option("--vacuum", help="Give the space back.")] = False,
) -> None:  # fmt: skip
    """Forgets entries; what is asked for again will be generated, or paid for, again."""
    from stores.ledger import Ledger
    from stores.ledger_admin import prune, sizes
    from stores.ledger_usage import checkouts, unused_models

    ledger = Ledger()
    if unused:
        fingerprint = [f for f in unused_models(ledger, checkouts(Path())) if not fingerprint or f in fingerprint]
    selection = _selected("prune", model, fingerprint, context, older_than)
    if yes:
        print(f"{prune(ledger, selection, vacuum):,} entries forgotten")
        return
    _print_sizes(sizes(ledger, selection), Format.table)
    print("nothing was changed; --yes forgets these entries")


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The file to write: a ledger of its own.")],
    model: Models = None, fingerprint: Fingerprints = None, context: Contexts = None, older_than: OlderThan = None,
    newer_than: NewerThan = None,
) -> None:  # fmt: skip
    """Writes the ledger, or a part of it, to one file that `merge` reads."""
    from stores.ledger import Ledger
    from stores.ledger_transfer import export

    count = export(Ledger(), file, _selection(model, fingerprint, context, older_than, newer_than))
    print(f"{file}: {count:,} entries")


@app.command()
def merge(file: Annotated[Path, typer.Argument(help="An export, or the ledger.sqlite of another machine.")]) -> None:
    """Adds another ledger's entries to this one; of two texts for one key the first stays. Can be repeated."""
    from stores.ledger import Ledger
    from stores.ledger_transfer import merge

    merged = merge(Ledger(), file)
    print(f"{merged.added:,} entries added, {merged.known:,} were here already")
    if merged.conflicts:
        shown = ", ".join(merged.examples)
        print(f"{merged.conflicts:,} conflicts: here with another text, which was kept ({shown}, …)")


@app.command()
def redact(
    model: Models = None, fingerprint: Fingerprints = None, context: Contexts = None, older_than: OlderThan = None,
    key: Annotated[list[str] | None, typer.Option("--key", help="One entry (repeatable).")] = None,
    keys: Annotated[Path | None, typer.Option("--keys", help="A file of keys, one per line.")] = None,
    yes: Yes = False,
) -> None:  # fmt: skip
    """Overwrites texts and tokens; keys and counts stay, so that a stage says so instead of paying again.

    Tables in data/, DVC's cache and remotes, and exports keep what they hold.
    """
    from stores.ledger import Ledger
    from stores.ledger_admin import redact, sizes

    named = [*(key or []), *(keys.read_text(encoding="utf-8").split() if keys else [])]
    if named and (model or fingerprint or context or older_than):
        raise ValueError("redact: give keys, or --model, --fingerprint, --context, --older-than, not both")
    ledger = Ledger()
    selection = None if named else _selected("redact", model, fingerprint, context, older_than)
    if yes:
        rest = "data/, DVC's cache and remotes, and exports keep theirs"
        print(f"{redact(ledger, selection, named):,} entries redacted; {rest}")
        return
    if selection:
        _print_sizes(sizes(ledger, selection), Format.table)
    print(f"nothing was changed; --yes redacts {f'{len(named):,} entries' if named else 'these entries'}")


def _selected(
    command: str,
    model: list[str] | None,
    fingerprint: list[str] | None,
    context: list[str] | None,
    older_than: str | None,
) -> "Selection":
    """A selection that is not everything."""
    if model is None and fingerprint is None and context is None and older_than is None:
        options = "--unused, " if command == "prune" else "--key, --keys, "
        raise ValueError(f"{command}: say which entries: {options}--model, --fingerprint, --context, --older-than")
    return _selection(model, fingerprint, context, older_than, None)


def _selection(
    model: list[str] | None,
    fingerprint: list[str] | None,
    context: list[str] | None,
    older_than: str | None,
    newer_than: str | None,
) -> "Selection":
    from stores.ledger_admin import Selection

    for option, values in (("--model", model), ("--fingerprint", fingerprint), ("--context", context)):
        if "" in (values or ()):
            raise ValueError(f"{option}: an empty value, which would not say which entries; is a variable unset?")
    before, since = _moment("--older-than", older_than), _moment("--newer-than", newer_than)
    return Selection(model, fingerprint, context, before, since)


def _moment(option: str, age: str | None) -> float | None:
    """The time that lies an age ago, such as `90d`."""
    if age is None:
        return None
    given = re.fullmatch(r"(\d+)([hdw])", age)
    if not given:
        raise ValueError(f"{option} {age}: hours, days or weeks are expected, as in 12h, 90d, 8w")
    return time.time() - int(given[1]) * _SECONDS[given[2]]


def _print_sizes(found: "list[Size]", format: Format) -> None:
    from stores.ledger_admin import Size

    print_rows(Size._fields, found, format)
    if format is Format.table:
        price = sum(row.price_usd or 0 for row in found)
        total = f"{sum(row.entries for row in found):,} entries, {sum(row.bytes for row in found):,} bytes"
        print(f"together {total}{f', {price:,.2f} USD' if price else ''}")
