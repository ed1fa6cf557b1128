"""CPU-seconds and peak memory of `export` on synthetic pairs, beside one DuckDB join through the same Parquet writer.

    python -m tests.benchmarks.export --rows 10000000 --json

Both write the same rows in the same columns, and the bytes are compared. Writing the samples and making the pairs is
not measured. Each figure is the median of `--repeat` processes; `ratio` is CPU-seconds of the stage to those of the
join, which orders its result as the stage does (`--unordered`: not, then the bytes differ).
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from builders.exporting.columns import columns
from builders.exporting.shards import write_shards
from schemas.params import load_params
from stores.duck import Duck
from stores.paths import export_dir, run_dir
from stores.views import PAIR_ID
from tests.benchmarks.measuring import medians, show
from tests.benchmarks.synthetic import RUN, run_measured, write_asked, write_params, write_samples_and_rewards

PLAIN = """
from tests.benchmarks.export import plain_join
run = lambda: plain_join({!r}, {!r})
"""
_PROMPT = "array_to_string(list_transform(q.messages, lambda m: m.content), '') || q.prefill as prompt"
_JOIN = f"""
select {_PROMPT},
  c.text[p.chosen_start + 1 : p.chosen_end] as chosen, r.text[p.rejected_start + 1 : p.rejected_end] as rejected,
  {PAIR_ID.replace("prompt_id", "p.prompt_id")} as pair_id, '{RUN}' as run, p.*,
  b.source, b.licence, q.messages as prompt_messages, q.prefill, q.rendering, q.template,
  c.model as chosen_model, c.model_fingerprint as chosen_model_fingerprint,
  r.model as rejected_model, r.model_fingerprint as rejected_model_fingerprint
from pairs p
join samples c on c.sample_id = p.chosen_sample_id
join samples r on r.sample_id = p.rejected_sample_id
join prompts q on q.prompt_id = p.prompt_id
join problems b on b.problem_id = p.problem_id
where b.split <> 'test'
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000], help="samples")
    parser.add_argument("--chars", type=int, default=600, help="of a text on average")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--unordered", action="store_true", help="the join need not order its result")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    order = "" if arguments.unordered else "order by p.prompt_id, p.rank"
    results = [measure(rows, arguments.chars, arguments.repeat, order) for rows in sorted(arguments.rows)]
    show({"stage": "export", "sizes": results} if arguments.json else results, arguments.json)


def measure(rows: int, chars: int, repeat: int, order: str) -> dict[str, float | bool]:
    """Medians for one size, in a directory that goes again."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_samples_and_rewards(root, rows, chars)
        write_asked(root, rows)
        write_params(root, samples_import={"prompts": RUN})
        run_measured(root, "pairs_outcome")
        stage = medians(lambda: run_measured(root, "export"), repeat)
        plain = medians(lambda: run_measured(root, "export", PLAIN.format(directory, order)), repeat)
        written, joined = (shards(path) for path in (export_dir(RUN, root), root / "plain"))
        sizes = {"rows": rows, "chars": chars, "export_mib": sum(map(len, written.values())) / 2**20}
        compared = {"ratio": stage["cpu_s"] / plain["cpu_s"], "same_bytes": written == joined}
        return sizes | stage | {f"plain_{name}": value for name, value in plain.items()} | compared


def shards(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((directory / "pairs").iterdir())}


def plain_join(directory: str, order: str) -> None:
    """The same shards from one join of whole tables."""
    root = Path(directory)
    release = load_params(root / "params.yaml").export[RUN]
    shutil.rmtree(root / "plain", ignore_errors=True)
    with Duck() as duck:
        for table in ("pairs", "samples", "prompts", "problems"):
            duck.view(table, table, [run_dir(table, RUN, root)])
        own = columns("pairs")
        batches = (b.select([c.name for c in own]) for b in duck.batches(_JOIN + order))
        write_shards(root / "plain", "pairs", own, batches, release.shard_mb * 10**6)


if __name__ == "__main__":
    main()
