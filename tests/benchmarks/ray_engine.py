"""What engine `ray` adds to the time that its replicas compute.

    python -m tests.benchmarks.ray_engine --json

Replicas of a script take a known time for every batch, so all else is Ray's and ours. `efficiency` is the time that the
batches take on all replicas over the time from the first answer to the last; `start_s` is until the first (cluster,
processes, imports). `batches_per_s` without any computing is what the driver can hand out and take back.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from builders.engines import Request, load_engine
from builders.model_files import write_record
from builders.models import write_script
from schemas import Chat
from schemas.sections import Sampling
from tests.benchmarks.measuring import medians, show

GREEDY = Sampling(temperature=0.0, max_new_tokens=256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a batch")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    os.environ |= {"PAIRWRIGHT_RAY_ENGINE": "scripted", "PAIRWRIGHT_RAY_REPLICAS": str(arguments.replicas)}
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory)
        write_script(model, ["Anna has 7 apples. " * 30])
        write_record(model, {"source": "script"})
        result = medians(lambda: _measure(model, arguments), arguments.repeat)
    show(result, arguments.json)


def _measure(model: Path, arguments: argparse.Namespace) -> dict[str, float]:
    batches, size = arguments.batches, arguments.batch_size
    start, busy = _run(model, batches, size, arguments.seconds)
    _, idle = _run(model, batches, size, 0.0)
    computed = (batches - arguments.replicas) * arguments.seconds / arguments.replicas
    return {"start_s": start, "efficiency": computed / busy, "batches_per_s": (batches - 1) / idle}


def _run(model: Path, batches: int, size: int, seconds: float) -> tuple[float, float]:
    """Seconds until the first answer, and from there to the last."""
    os.environ["PAIRWRIGHT_SCRIPTED_DELAY"] = str(seconds)
    message = (Chat(role="user", content="Anna has 3 apples and buys 4 more. How many has she now? " * 5),)
    requests = (Request(f"{i:08d}", message, "", "chat") for i in range(batches * size))
    began = time.perf_counter()
    answers = [time.perf_counter() for _ in load_engine("ray", model).stream(requests, GREEDY, size)]
    assert len(answers) == batches
    return answers[0] - began, answers[-1] - answers[0]


if __name__ == "__main__":
    main()
