"""Experiment trackers that watch a run, where the environment asks for some; none by default.

`PAIRWRIGHT_TRACKERS` names them; they decide no row, so no parameter does. They are driven through accelerate's
trackers, one kept interface to all of them that came with peft: its calls follow the libraries' changes. What they see
is what the table and the view `training_speed` get. A run that goes on after a kill goes on in its tracker.

Whatever a tracker does wrong is said in one line, and training goes on without it. Files go to
`PAIRWRIGHT_TRACKING_DIR`, by default `tracking` in the ledger's directory; trackio's where its own `TRACKIO_DIR` says.
"""

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stores.paths import ledger_dir
from stores.stage import Stage

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

TRACKERS, DIRECTORY = "PAIRWRIGHT_TRACKERS", "PAIRWRIGHT_TRACKING_DIR"
NAMES = ("tensorboard", "wandb", "trackio", "dvclive")


class Trackers:
    """The trackers of one run that still work."""

    def __init__(self, place: str = "", working: Mapping[str, "GeneralTracker"] | None = None):
        self.place, self.working = place, dict(working or {})

    @classmethod
    def start(cls, stage: Stage, fingerprint: str, step: int) -> "Trackers":
        """Those that the environment asks for, for a run that goes on at a step. `fingerprint` is the run's."""
        trackers = cls(f"{stage.section} {stage.name}")
        for name in wanted():
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:  # without an origin: a directory that happens to be called so
                trackers._say(name, f"it is not installed; `pip install -e '.[{name}]'` does that")
            elif (tracker := trackers._try(name, _open, name, stage, fingerprint, step)) is not None:
                trackers.working[name] = tracker
        return trackers

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers of a step; what is null is left out, and the step's own, whose name trackio keeps to itself."""
        numbers = {name: x for name, x in values.items() if isinstance(x, int | float) and name != "step"}
        for name, tracker in list(self.working.items()):
            self._try(name, tracker.log, numbers, step)

    def finish(self) -> None:
        for name, tracker in list(self.working.items()):
            self._try(name, tracker.finish)
        self.working.clear()

    def _try(self, name: str, act: Any, *arguments: Any) -> Any:
        """What an act of a tracker returns; one that fails is dropped."""
        try:
            return act(*arguments)
        except Exception as error:
            self.working.pop(name, None)
            reason = " ".join(str(error).split())
            self._say(name, f"{type(error).__name__}: {reason}" if reason else type(error).__name__)
            return None

    def _say(self, name: str, why: str) -> None:
        print(f"{self.place}: tracker {name} is left out: {why}", file=sys.stderr, flush=True)


def wanted() -> Sequence[str]:
    """The trackers that the environment names. Raises ValueError for one that there is not."""
    names = [name.strip() for name in os.environ.get(TRACKERS, "").split(",") if name.strip()]
    if unknown := next((name for name in names if name not in NAMES), None):
        raise ValueError(f"{TRACKERS}: no tracker '{unknown}' (have {', '.join(NAMES)})")
    return list(dict.fromkeys(names))


def _open(name: str, stage: Stage, fingerprint: str, step: int) -> "GeneralTracker":
    from accelerate import PartialState, tracking

    PartialState()  # which its trackers' own logging asks for; a group of processes is there already
    project, run = stage.root.resolve().name, f"{stage.section}.{stage.name}"
    directory = Path(os.environ.get(DIRECTORY) or ledger_dir() / "tracking").expanduser() / name
    directory.mkdir(parents=True, exist_ok=True)
    config = stage.config.model_dump()
    match name:
        case "tensorboard":  # what a killed run logged of later steps is hidden
            tracker = tracking.TensorBoardTracker(run, directory / project, purge_step=step)
        case "wandb":
            known = {"name": run, "id": fingerprint, "resume": "allow"}
            tracker = tracking.WandBTracker(project, **known, dir=directory, config=config)
        case "trackio":
            tracker = tracking.TrackioTracker(project, name=run, resume="allow", embed=False, config=config)
        case _:  # it must not touch this project's dvc.yaml, experiments and index
            place = str(directory / project / run)
            tracker = tracking.DVCLiveTracker(dir=place, resume=step > 0, save_dvc_exp=False, dvcyaml=None)
    tracker.main_process_only = False  # only the first process has trackers; accelerate need not look
    tracker.start()
    return tracker
