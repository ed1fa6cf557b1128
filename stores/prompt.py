"""The prompt of `pairwright sql`: queries over several lines up to `;`, completion of names, and a history."""

import re
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from schemas import TABLES, arrow_schema
from stores.paths import ledger_dir
from stores.plain import printable
from stores.printing import ResultFormat, print_result
from stores.versions import Versions
from stores.views import DERIVED

HELP = """A query ends with `;` and may have several lines. Tab completes names; arrow keys bring back queries.
  .tables          lists tables and views
  .describe NAME   columns of one, and their types
  .format FORMAT   how rows are printed: table, json or csv
  .help            this
  .quit            ends, as Ctrl-D does; Ctrl-C gives up a query"""

_KEYWORDS = re.findall(
    r"\w+",
    """
    select from where group by order having limit offset join left right inner outer full cross anti semi using on as
    and or not in is null like ilike between exists distinct union all except intersect with recursive case when then
    else end asc desc nulls first last count sum avg min max median quantile_cont filter over partition qualify values
    summarize describe unnest any_value list string_agg exclude replace cast try_cast true false
    """,
)
_NAMED = re.compile(r"\b(?:from|join)\s+([\w.]+)(?:\s+(?:as\s+)?(\w+))?", re.IGNORECASE)


class Prompt:
    """Asks for queries over versions, and prints their answers, until the input ends."""

    def __init__(self, versions: Versions, format: ResultFormat, most: int):
        if format == ResultFormat.parquet:
            raise ValueError("parquet is binary, and this is a terminal: give a query and `--output FILE`")
        self.versions, self.format, self.most = versions, format, most

    @cached_property
    def session(self) -> "PromptSession[str]":
        """The line editor."""
        history = ledger_dir() / "sql_history"
        history.parent.mkdir(parents=True, exist_ok=True)
        return PromptSession(
            "pairwright> ",
            multiline=True,
            key_bindings=_keys(),
            completer=Names(self.versions),
            complete_while_typing=False,
            history=FileHistory(str(history)),
            prompt_continuation=lambda width, *_: "…> ".rjust(width),
        )

    def run(self) -> None:
        """One answer after the other; a mistake does not end it."""
        print(f"SQL over {', '.join(self.versions.stores)}; `.help` says more.")
        while True:
            try:
                text = self.session.prompt().strip()
                if text == ".quit":
                    return
                self.answer(text)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return

    def answer(self, text: str) -> None:
        """Prints the answer to a query, or to one of the prompt's own commands; or what is wrong with it."""
        try:
            if text.startswith("."):
                self._command(*text.rstrip(";").split(maxsplit=1))
            elif query := text.rstrip("; \n\t"):
                print_result(self.versions.sql(query), self.format, most=self.most)
        except ValueError as error:
            print(printable("\n".join([str(error), *getattr(error, "__notes__", [])])), file=sys.stderr)

    def _command(self, name: str, argument: str = "") -> None:
        match name:
            case ".help":
                print(HELP)
            case ".tables":
                print("\n".join(f"{'view' if table in DERIVED else 'table'}  {table}" for table in (*TABLES, *DERIVED)))
            case ".describe" if argument:
                print_result(self.versions.sql(f"describe select * from {argument}"), self.format)
            case ".format" if argument in ("table", "json", "csv"):
                self.format = ResultFormat(argument)
            case _:
                raise ValueError(f"no command '{' '.join([name, argument]).strip()}'; `.help` lists them")


def _keys() -> KeyBindings:
    """Enter ends what is whole, and begins a new line of what is not."""
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        text = event.current_buffer.text.strip()
        if not text or text.startswith(".") or text.endswith(";"):
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.insert_text("\n")

    return keys


class Names(Completer):
    """Completes tables, views, columns of those that the query names, versions and keywords."""

    def __init__(self, versions: Versions):
        self._versions, self._columns = versions, dict[str, list[str]]()

    @cached_property
    def _tables(self) -> list[str]:
        return [*TABLES, *DERIVED]

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Names that begin as the word before the cursor does."""
        del complete_event
        before = re.sub(r"\w*$", "", document.text_before_cursor)
        word = document.text_before_cursor[len(before) :]
        owner = re.search(r"(\w+)\.$", before)
        for name in self._owned(owner[1], document.text) if owner else self._candidates(document.text):
            if name.lower().startswith(word.lower()) and name != word:
                yield Completion(name, start_position=-len(word))

    def _owned(self, owner: str, query: str) -> Iterable[str]:
        """Tables of a version, or columns of a table or of its alias."""
        if owner in self._versions.stores:
            return self._tables
        aliases = {alias: table for table, alias in _NAMED.findall(query) if alias}
        return self.columns(aliases.get(owner, owner))

    def _candidates(self, query: str) -> Iterable[str]:
        named = [column for table, _ in _NAMED.findall(query) for column in self.columns(table)]
        return dict.fromkeys([*named, *self._tables, *self._versions.stores, *_KEYWORDS])

    def columns(self, table: str) -> list[str]:
        """The columns of a table or view; none of one that cannot be read. A table's own need no file."""
        if table not in self._columns:
            self._columns[table] = self._asked(table)
        return self._columns[table]

    def _asked(self, table: str) -> list[str]:
        name = table.rpartition(".")[2]
        if name not in self._tables:
            return []
        try:
            return self._versions.sql(f"select * from {table} limit 0").columns
        except ValueError:
            return [*arrow_schema(TABLES[name]).names, "run"] if name in TABLES else []
