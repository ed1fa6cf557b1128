"""Pairs from samples: ours, Polars, pandas, `datasets.map` and distilabel, on the same input in the same run.

    python3 -m venv peers && peers/bin/pip install polars pandas pyarrow datasets distilabel requests
    python -m tests.benchmarks.peers --python peers/bin/python --rows 100000 1000000 --json

Every tool gets Parquet sorted by prompt, 30 samples per prompt, and writes 7 pairs per prompt to Parquet; each also
gets the layout of ids (a pair holds sample ids, no text is read), which is ours. Ours with texts is the same stage, and
then its pairs with both texts, joined by SQL. Each runs in a process of its own, which is ended after ten minutes or at
16 GiB, and that is recorded. Numbers are medians of `--repeat` runs, imports included; writing the input is not
measured. Before, all are checked to give the same pairs of a small input. The programs are in `peer_programs`.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from builders.streams import RowStream
from schemas import Reward, Sample
from stores.parquet import scan_table
from stores.paths import run_dir
from tests.benchmarks.limited import Limits, run_limited
from tests.benchmarks.measuring import show
from tests.benchmarks.synthetic import RUN, write_params, write_samples_and_rewards
from tests.conftest import REPOSITORY

PEERS = ("polars", "pandas", "datasets", "distilabel")
LAYOUTS = {"texts": "text", "ids": "sample_id"}
K = 7
_PROGRAMS = Path(__file__).parent / "peer_programs"
_OURS = """
import sys
from builders.pairs_outcome import run
from stores.stage import execute
execute("pairs_outcome", "bench", run)
if sys.argv[1] == "texts":
    import pyarrow.parquet as pq
    from stores.store import Store
    with Store.open() as store:
        pairs = store.sql("select prompt_id, rank, chosen, rejected from pair_texts").batches()
        with pq.ParquetWriter("pairs.parquet", pairs.schema) as writer:
            for batch in pairs:
                writer.write_batch(batch)
"""


def main() -> None:
    arguments = _parser().parse_args()
    limits = Limits(arguments.minutes * 60, arguments.gib)
    results = []
    for number, rows in enumerate(sorted(arguments.rows)):
        with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
            root = Path(directory)
            if not number:
                check(root / "check", arguments.tools, arguments.python, limits)
            write_input(root / "input", rows, arguments.chars, any(tool != "ours" for tool in arguments.tools))
            for tool in arguments.tools:
                for layout in arguments.layouts:
                    result = measure(root, tool, layout, arguments, limits)
                    results.append({"tool": tool, "layout": layout, "rows": rows, "chars": arguments.chars} | result)
                    if not arguments.json:
                        show(results[-1], False)
    if arguments.json:
        show({"stage": "pairs_outcome", "results": results}, True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter of an environment with the peers")
    parser.add_argument("--tools", nargs="+", choices=("ours", *PEERS), default=("ours", *PEERS))
    parser.add_argument("--layouts", nargs="+", choices=tuple(LAYOUTS), default=tuple(LAYOUTS))
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="samples")
    parser.add_argument("--chars", type=int, default=600, help="of a text on average")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10.0, help="limit of one run")
    parser.add_argument("--gib", type=float, default=16.0, help="limit of resident memory of one run")
    parser.add_argument("--directory", type=Path, help="where inputs and outputs are put (default: the system's)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    return parser


def write_input(root: Path, rows: int, chars: int, for_peers: bool = True) -> None:
    """Our tables, and beside them the same samples as a file for the peers, with texts and without."""
    write_samples_and_rewards(root, rows, chars)
    write_params(root, pairs_outcome={"k": K})
    if not for_peers:
        return
    samples = scan_table(run_dir("samples", RUN, root), Sample, ["sample_id", "prompt_id", "text"])
    rewards = scan_table(run_dir("rewards", RUN, root), Reward, ["reward"])
    schema = pa.schema(
        [("sample_id", pa.string()), ("prompt_id", pa.string()), ("correct", pa.bool_()), ("text", pa.string())]
    )
    narrow = schema.remove(3)
    with (
        pq.ParquetWriter(root / "texts.parquet", schema) as texts,
        pq.ParquetWriter(root / "ids.parquet", narrow) as ids,
    ):
        for batch in _side_by_side(samples, rewards):
            texts.write_table(batch.select(schema.names).cast(schema))
            ids.write_table(batch.select(narrow.names).cast(narrow))


def _side_by_side(samples: Iterator[pa.Table], rewards: Iterator[pa.Table]) -> Iterator[pa.Table]:
    stream = RowStream(rewards)
    for batch in samples:
        correct = pc.equal(stream.take(len(batch))["reward"], 1.0)
        yield batch.append_column("correct", correct)


def measure(root: Path, tool: str, layout: str, arguments: argparse.Namespace, limits: Limits) -> dict[str, Any]:
    """Medians over the runs of one tool, or the first of its runs that did not end well."""
    runs = []
    for _ in range(arguments.repeat):
        runs.append(run_tool(root / "input", tool, layout, arguments.python, limits))
        if runs[-1]["outcome"] != "ok":
            return runs[-1]
    numbers = {name: statistics.median(run[name] for run in runs) for name in runs[0] if name != "outcome"}
    return {"outcome": "ok"} | numbers


def run_tool(root: Path, tool: str, layout: str, python: str, limits: Limits) -> dict[str, Any]:
    """One run of one tool; its pairs are in `output(...)` if it ended well."""
    work = root / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    if tool == "ours":
        own = {"PYTHONPATH": str(REPOSITORY), "PAIRWRIGHT_LEDGER": str(root / "ledger")}
        own["PAIRWRIGHT_MEMORY"] = f"{limits.gib / 2:g}GB"  # DuckDB would take what the machine has
        return run_limited([sys.executable, "-c", _OURS, layout], limits, root, own)
    program, source = _PROGRAMS / f"{tool}_pairs.py", root.resolve() / f"{layout}.parquet"
    target = work.resolve() / "pairs.parquet"
    return run_limited([python, str(program), str(source), str(target), LAYOUTS[layout], str(K)], limits, work)


def output(root: Path, tool: str, layout: str) -> list[tuple[Any, ...]]:
    """The pairs that a tool has written, sorted."""
    if tool == "ours" and layout == "ids":
        pairs = pq.read_table(next(run_dir("pairs", RUN, root).glob("part-*.parquet")))
        names = ("prompt_id", "rank", "chosen_sample_id", "rejected_sample_id")
    else:
        pairs = pq.read_table(root / "pairs.parquet" if tool == "ours" else root / "work" / "pairs.parquet")
        names = ("prompt_id", "rank", "chosen", "rejected")
    return sorted(zip(*(pairs[name].to_pylist() for name in names), strict=True))


def check(root: Path, tools: Sequence[str], python: str, limits: Limits) -> None:
    """Raises ValueError unless all tools give the same pairs of 3,000 samples."""
    write_input(root, 3_000, 60)
    for layout in LAYOUTS:
        run_tool(root, "ours", layout, python, limits)
        ours = output(root, "ours", layout)
        assert len(ours) == 7 * len({pair[0] for pair in ours}) > 600, "most prompts have pairs"
        for tool in tools:
            result = run_tool(root, tool, layout, python, limits)
            if result["outcome"] != "ok":
                raise ValueError(f"{tool}: {result['outcome']}; install it where `--python` is (see --help)")
            if output(root, tool, layout) != ours:
                raise ValueError(f"{tool}: its pairs with {layout} are not ours")


if __name__ == "__main__":
    main()
