"""Appending to the ledger, looking up its keys, opening it; beside the layout that it had first, as a peer.

    python -m tests.benchmarks.ledger --entries 10000000 --json

Appended entries are real ones: texts of 600 characters, 150 token ids, eight to a prompt, each batch synced; `append`
is to an empty ledger, `append_large` to the one of `--entries`. That one is filled in bulk, with texts of 20 characters
and without token ids: its 10M entries take 1.4 GB instead of 14. Each look-up is of 10,000 keys, `random` ones or
those of 1,250 `prompts`, in a process of its own that has just opened the ledger; `get` also reads what was found. The
operating system may have the file in its cache. Rates are entries or keys per second, medians: of elapsed time, and
(`…_cpu`) of processor time.
"""

import argparse
import contextlib
import json
import random
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from stores import ledger_schema
from stores.ledger import Completion, Ledger
from tests.conftest import REPOSITORY

Entries = list[tuple[str, Completion]]
Rates = list[float]
PER_PROMPT, CONTEXTS, LOOKUP, CHARS, TOKENS = 8, 10, 10_000, 600, 150
_PEER = """
create table batches (
  batch integer primary key, context text not null, model text not null, finished_at real not null,
  wall_s real not null, device_s real not null, n integer not null, n_tokens integer not null
);
create table completions (
  key text primary key, batch integer not null references batches, text text not null, finish_reason text not null,
  n_tokens integer, n_prompt_tokens integer, token_ids blob, logprobs blob, price_usd real,
  n_attempts integer not null default 1, served_by text
) without rowid;
"""
_INSERT = "insert into completions (key, batch, text, finish_reason) values (?,?,'a completion of many','stop')"
_LOOKUPS = """
import json, sys, time
from pathlib import Path
from stores.ledger import Ledger
began = time.perf_counter()
ledger = Ledger(Path(sys.argv[1]))
ledger.missing(["nothing"])
found, asked = {"open_s": [time.perf_counter() - began]}, json.loads(Path(sys.argv[2]).read_text())
for name, groups in asked.items():
    for way in ("missing", "get") if name != "absent" else ("missing",):
        for keys in groups:
            wall, cpu = time.perf_counter(), time.process_time()
            answer = getattr(ledger, way)(keys)
            found.setdefault(f"{way}_{name}", []).append(len(keys) / (time.perf_counter() - wall))
            found.setdefault(f"{way}_{name}_cpu", []).append(len(keys) / (time.process_time() - cpu))
            assert len(answer) == (0 if (way, name) in (("missing", "random"), ("missing", "prompts")) else len(keys))
print(json.dumps(found))
"""
_PEER_LOOKUPS = """
import json, sqlite3, sys, time
from pathlib import Path
db = sqlite3.connect(sys.argv[1] + "/peer.sqlite")
asked, found = json.loads(Path(sys.argv[2]).read_text()), {}
for name, groups in asked.items():
    for keys in groups:
        wall, cpu, have = time.perf_counter(), time.process_time(), set()
        for start in range(0, len(keys), 500):
            marks = ",".join("?" * len(keys[start : start + 500]))
            query = f"select key from completions where key in ({marks})"
            have.update(key for (key,) in db.execute(query, keys[start : start + 500]))
        found.setdefault(f"missing_{name}", []).append(len(keys) / (time.perf_counter() - wall))
        found.setdefault(f"missing_{name}_cpu", []).append(len(keys) / (time.process_time() - cpu))
        assert len(have) == (0 if name == "absent" else len(keys))
print(json.dumps(found))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000_000, help="of the large ledger")
    parser.add_argument("--appended", type=int, default=60_000, help="entries that each repetition appends")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        sizes = arguments.entries, arguments.appended, arguments.repeat
        result = measure(Path(directory), *sizes)
        peer = {} if arguments.no_peer else measure_peer(Path(directory), *sizes)
    result |= {f"peer_{name}": value for name, value in peer.items()}
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:26} {value:,.3f}" for name, value in result.items()))


def measure(root: Path, entries: int, appended: int, repeat: int) -> dict[str, float]:
    """All figures of the ledger."""
    result: dict[str, float] = {"entries": entries}
    for batch in (256, 1000):
        new = (Ledger(root / f"new-{batch}-{i}") for i in range(repeat))
        rates = (_append(ledger, _entries(appended, i), batch) for i, ledger in enumerate(new))
        result |= _medians(f"append_{batch}", rates)
    began = time.perf_counter()
    fill(root / "large", entries)
    result["fill_s"] = time.perf_counter() - began
    result["gigabytes"] = (root / "large" / "ledger.sqlite").stat().st_size / 1e9
    result |= _in_processes(_LOOKUPS, root / "large", root / "keys.json", entries, repeat)
    for batch in (256, 1000):
        rates = (_append(Ledger(root / "large"), _entries(appended, batch + i), batch) for i in range(repeat))
        result |= _medians(f"append_large_{batch}", rates)
    result["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return result


def measure_peer(root: Path, entries: int, appended: int, repeat: int) -> dict[str, float]:
    """The same of one table without row numbers, whose texts lie in the B-tree of the keys; SQLite's own settings."""
    result: dict[str, float] = {}
    for batch in (256, 1000):
        rates = (_append_peer(root / f"peer-{batch}-{i}", _entries(appended, i), batch) for i in range(repeat))
        result |= _medians(f"append_{batch}", rates)
    with _peer(root / "peer") as db:
        db.execute("pragma synchronous=off")
        db.execute("begin")
        for context in sorted(_contexts()):
            keys = sorted(key for prompt in _prompts(context, entries) for key in _keys(context, prompt))
            db.executemany(_INSERT, ((key, 1) for key in keys))
        db.execute("commit")
    return result | _in_processes(_PEER_LOOKUPS, root / "peer", root / "keys.json", entries, repeat)


def fill(root: Path, entries: int) -> None:
    """A ledger of many small entries: in bulk, and its index at the end."""
    root.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(root / "ledger.sqlite", isolation_level=None)) as db:
        for setting in ("journal_mode=off", "synchronous=off", "cache_size=-500000"):
            db.execute(f"pragma {setting}")
        db.execute("begin")
        ledger_schema.create(db, index=False)
        batches = [(i, c, "m0", 1e9, 1.0, 1.0, entries // CONTEXTS, 0) for i, c in enumerate(_contexts(), 1)]
        db.executemany("insert into batches values (?,?,?,?,?,?,?,?)", batches)
        for number, context, *_ in batches:
            keys = (key for prompt in _prompts(context, entries) for key in _keys(context, prompt))
            db.executemany(_INSERT, ((key, number) for key in keys))
        db.execute(ledger_schema.INDEX.format(schema="main"))
        db.execute("commit")


def _contexts() -> list[str]:
    return [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in range(1, CONTEXTS + 1)]


def _prompts(context: str, entries: int) -> list[int]:
    generator = np.random.default_rng(int(context, 16))
    return generator.integers(0, 2**63, entries // CONTEXTS // PER_PROMPT).tolist()


def _keys(context: str, prompt: int) -> list[str]:
    return [f"{context}-{prompt:016x}-{index:04d}" for index in range(PER_PROMPT)]


def _in_processes(code: str, root: Path, asked: Path, entries: int, repeat: int) -> dict[str, float]:
    """Medians of what processes print, each of which looks up three groups of keys of each kind."""
    found: dict[str, list[float]] = {}
    for number in range(repeat):
        asked.write_text(json.dumps(_asked(entries, number)), encoding="utf-8")
        command = [sys.executable, "-c", code, str(root), str(asked)]
        done = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
        for name, values in json.loads(done.stdout).items():
            found.setdefault(name, []).extend(values)
    return {name: statistics.median(values) for name, values in found.items()}


def _asked(entries: int, seed: int) -> dict[str, list[list[str]]]:
    """Groups of keys: at random, of whole prompts, and absent ones."""
    draw = random.Random(seed)
    prompts = [(context, prompt) for context in _contexts() for prompt in _prompts(context, entries)]
    groups: dict[str, list[list[str]]] = {"random": [], "prompts": [], "absent": []}
    for _ in range(3):
        some = draw.sample(prompts, min(LOOKUP, len(prompts)))
        one_each = [_keys(*prompt)[draw.randrange(PER_PROMPT)] for prompt in some]
        groups["random"].append(one_each)
        groups["prompts"].append([key for prompt in some[: LOOKUP // PER_PROMPT] for key in _keys(*prompt)])
        groups["absent"].append([key[:-4] + "9999" for key in one_each])
    return groups


def _entries(count: int, seed: int) -> Entries:
    draw = random.Random(seed)
    context, words, found = f"{draw.getrandbits(64):016x}", "word1234 " * (CHARS // 9 + 1), []
    while len(found) < count:
        for key in _keys(context, draw.getrandbits(63)):
            text = (f"{len(found)} " + words)[:CHARS]
            ids = tuple(draw.choices(range(150_000), k=TOKENS))
            found.append((key, Completion(text, "stop", TOKENS, 100, ids)))
    return found


def _append(ledger: Ledger, entries: Entries, batch: int) -> Rates:
    with contextlib.closing(ledger), _rates(len(entries)) as rates:
        for start in range(0, len(entries), batch):
            ledger.append("bench", "m0", entries[start : start + batch], 1.0)
    return rates


@contextlib.contextmanager
def _rates(count: int) -> Iterator[Rates]:
    """(per second, per processor second), there when the block ends."""
    rates: Rates = []
    wall, cpu = time.perf_counter(), time.process_time()
    yield rates
    rates += [count / (time.perf_counter() - wall), count / (time.process_time() - cpu)]


def _medians(name: str, measured: Iterable[Rates]) -> dict[str, float]:
    wall, cpu = zip(*measured, strict=True)
    return {name: statistics.median(wall), f"{name}_cpu": statistics.median(cpu)}


@contextlib.contextmanager
def _peer(root: Path) -> Iterator[sqlite3.Connection]:
    root.mkdir()
    with contextlib.closing(sqlite3.connect(root / "peer.sqlite", isolation_level=None)) as db:
        db.execute("pragma journal_mode=wal")
        db.execute("pragma synchronous=full")
        db.executescript(_PEER)
        yield db


def _append_peer(root: Path, entries: Entries, batch: int) -> Rates:
    insert = "insert into completions values (?,1,?,?,?,?,?,null,null,1,null)"
    with _peer(root) as db, _rates(len(entries)) as rates:
        for start in range(0, len(entries), batch):
            rows = [
                (key, *c[:4], np.asarray(c.token_ids, "<i4").tobytes()) for key, c in entries[start : start + batch]
            ]
            db.execute("begin immediate")
            db.executemany(insert, rows)
            db.execute("commit")
    return rates


if __name__ == "__main__":
    main()
