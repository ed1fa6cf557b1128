"""A checkout of its own for tests that run the real pipeline with `dvc repro`."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from schemas.params import STAGES
from tests.conftest import REPOSITORY

PACKAGES = ("schemas", "stores", "builders", "train", "data/none", "dvc.yaml", ".dvcignore", ".gitignore")
EMPTY: dict[str, Any] = {"seed": 0, "sampling": {}, "report": {}} | {section: {} for section in STAGES}


class Checkout:
    """A copy of the code in a new Git and DVC repository, with params and a ledger of its own."""

    def __init__(self, root: Path, params: dict[str, Any], ledger: str = "ledger"):
        self.root = root / "checkout"
        bin_dir = Path(sys.executable).parent
        self.environment = os.environ | {
            "PAIRWRIGHT_LEDGER": str(root / ledger),
            "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.root.mkdir(parents=True)
        tracked = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", *PACKAGES, "data/*/run=none/*", "data/models/none/*"],
            cwd=REPOSITORY, check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in tracked.stdout.splitlines():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, self.root / name)
        self.write_params(params)
        self.git("init", "-q")
        self.call("dvc", "init", "-q")
        self.call("dvc", "config", "core.analytics", "false")
        self.commit("start")

    def write_params(self, params: dict[str, Any]) -> None:
        text = yaml.safe_dump(EMPTY | params, sort_keys=False)
        (self.root / "params.yaml").write_text(text, encoding="utf-8")

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        return self.call("git", *identity, *arguments).stdout

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", message)

    def call(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.root, env=self.environment | environment, capture_output=True, text=True
        )
        assert done.returncode == 0 or not check, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def repro(self, *targets: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.call("dvc", "repro", *targets, check=check, **environment)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """A command in a process group of its own, to be killed with `kill`."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment | environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def bytes_of(self, path: str) -> dict[str, bytes]:
        """Every file below a path, by name."""
        base = self.root / path
        return {p.relative_to(base).as_posix(): p.read_bytes() for p in sorted(base.rglob("*")) if p.is_file()}


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the whole process group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 900) -> None:
    """Polls until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.01)


def wait_for_process(name: str, directory: str) -> None:
    """Until a process whose command line holds `name` works in the directory."""

    def runs() -> bool:
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if name in (entry / "cmdline").read_text() and str((entry / "cwd").readlink()) == directory:
                    return True
        return False

    wait_for(runs, f"process {name}")


def sampling_params(engine: str, n: int) -> dict[str, Any]:
    """Generated problems, and n completions of each by a script or by a random tiny model."""
    problems = {"source": "arithmetic", "path": "data/none", "split": "train", "seed": 1, "limit": 40, "steps": [2, 3]}
    tiny = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256}  # fmt: skip
    made = {"config": tiny, "vocabulary": "train"}
    scripted = {"script": [f"Final answer: {i}" for i in range(20)], "vocabulary": "none"}
    model = {"path": "data/none"} | (made if engine == "hf" else scripted)
    prompts = {"problems": "train", "template": "question_answer", "rendering": "text",
               "demo_samples": "none", "demo_problems": "none"}  # fmt: skip
    samples = {"prompts": "train", "model": "base", "engine": engine, "sampling": "explore", "n": n, "batch_size": 16}
    return {
        "sampling": {"explore": {"temperature": 1.0, "max_new_tokens": 24}},
        "problems": {"train": problems},
        "models": {"base": model},
        "prompts": {"train": prompts},
        "samples": {"irpo_0": samples},
        "predictions": {"irpo_0": {"samples": "irpo_0", "prompts": "train", "problems": "train"}},
        "rewards": {"irpo_0": {"predictions": "irpo_0", "problems": "train"}},
    }
