"""Time of `step_labels` with the rule labeler: from samples with numbered steps to rows.

    python -m tests.benchmarks.step_labels --rows 100000 --json

Texts have five steps. `plain` ones are sentences like those of generated problems; of the `mixed` ones some have money,
units, calculator marks, fractions, percentages, brackets or LaTeX. Every tenth equation is false. Writing the input is
not measured. Each timing is the median of `--repeat` processes, which include the start of Python.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from schemas import Sample
from schemas.ids import text_hash
from stores.parquet import PART, scan_table, write_table
from stores.paths import run_dir
from tests.benchmarks import synthetic
from tests.benchmarks.measuring import medians, show

STEPS = 5
PLAIN = ("The cups cost {a} * {b} = {product}.", "Then Hugo has {a} + {b} = {sum} left.")
MIXED = (
    *PLAIN,
    "Together that is {a} + {b} = <<{a}+{b}={sum}>>{sum} pages a day.",
    "They pay {a} x ${b} = ${product} for the tickets, which is what they have.",
    "That makes {a} boxes * {b} cups per box = {product} cups in all, and nothing is left of them.",
    "Half of them is 1/2 * {product} = {half}, since {a} * {b} = {product}.",
    r"So we get \( ({a} + {b}) \times 2 = {double} \).",
    "This is {a}% of {b}, so we need to look at the others first.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="samples")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    results = {}
    for kind, sentences in (("plain", PLAIN), ("mixed", MIXED)):
        with tempfile.TemporaryDirectory() as directory:
            write(Path(directory), arguments.rows, sentences)
            results[kind] = medians(lambda: measure(Path(directory)), arguments.repeat)
    show(results if arguments.json else [{"texts": k} | v for k, v in results.items()], arguments.json)


def write(root: Path, rows: int, sentences: tuple[str, ...]) -> None:
    """A workspace in which `step_labels` can run."""
    synthetic.write_params(root)
    synthetic.write_samples_and_problems(root, rows, chars=100)
    written = scan_table(run_dir("samples", synthetic.RUN, root), Sample)
    write_table(root / "stepped", Sample, _stepped(written, sentences))
    (root / "stepped" / PART).replace(run_dir("samples", synthetic.RUN, root) / PART)


def measure(root: Path) -> dict[str, float]:
    started = time.perf_counter()
    result = synthetic.run_measured(root, "step_labels")
    return result | {"with_start_s": time.perf_counter() - started}


def _stepped(batches: Iterator[pa.Table], sentences: tuple[str, ...]) -> Iterator[pa.Table]:
    generator = random.Random(0)
    for batch in batches:
        texts = [_text(generator, sentences) for _ in range(len(batch))]
        new = {"text": texts, "text_hash": list(map(text_hash, texts)), "n_chars": list(map(len, texts))}
        for name, values in new.items():
            place = batch.schema.get_field_index(name)
            field = batch.schema.field(name)
            batch = batch.set_column(place, field, pa.array(values, field.type))
        yield batch


def _text(generator: random.Random, sentences: tuple[str, ...]) -> str:
    return "\n".join(f"Step {n}: {_sentence(generator, sentences)}" for n in range(1, STEPS + 1))


def _sentence(generator: random.Random, sentences: tuple[str, ...]) -> str:
    a, b = generator.randrange(2, 200), generator.randrange(2, 50) * 2
    wrong = generator.random() < 0.1
    return generator.choice(sentences).format(
        a=a, b=b, sum=a + b + wrong, product=a * b + wrong, half=a * b // 2, double=2 * (a + b) + wrong
    )


if __name__ == "__main__":
    main()
