"""The content of a published model: its weights as safetensors (or its LoRA adapter alone), tokenizer, and card."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from builders.exporting.licences import settle
from builders.exporting.provenance import without_places
from builders.model_files import ADAPTER, TRAINED_ADAPTER, load_model, load_tokenizer
from builders.publishing.lineage import Step, accuracies, as_json, hub_base, model_steps, source_licences
from builders.publishing.model_card import Lineage, model_card
from builders.publishing.plans import Content, Local, local, with_provenance
from builders.publishing.release import data_revision, snapshot_of
from schemas.params import parse_params
from schemas.slots import NO_FILE
from stores.model_record import RECORD, read_record
from stores.paths import run_dir
from stores.release_files import CARD, check_file
from stores.revisions import Snapshot

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TOKENIZER = ("token", "special_tokens_map", "added_tokens", "vocab", "merges", "chat_template")


@contextlib.contextmanager
def model_content(
    root: Path,
    run: str,
    revision: str | None = None,
    merge: bool = False,
    licence: str | None = None,
    repository: str = "ORG/NAME",
) -> Iterator[Content]:
    """A trained (or any) model run of one version, every file checked against the SHA-256 of its record.

    A LoRA adapter is sent alone, as peft lays it out, where its base is on the Hub; `merge` sends merged weights.
    Raises ValueError for an unknown or damaged model, one without weights, an adapter whose base nobody could fetch,
    and a licence that is laxer than that of a source of its training data.
    """
    snapshot = snapshot_of(root, revision)
    params = parse_params(snapshot.text("params.yaml"), f"params.yaml of {snapshot.name}", older=True)
    steps, sources = model_steps(params, run), source_licences(params, run)
    terms = _terms(licence, steps, sources)
    with tempfile.TemporaryDirectory(prefix="pairwright-model-") as scratch:
        directory = _linked(snapshot, run, Path(scratch) / "model")
        record = read_record(directory)
        _check_files(directory, record["files"] | record.get("trained_adapter", {}))
        adapter = None if merge else _adapter(directory)
        if adapter:
            files = _adapter_files(directory, adapter, steps, Path(scratch) / "adapter")
        else:
            files = _whole_files(directory, record, Path(scratch) / "merged")
        lineage = Lineage(
            run, data_revision(snapshot), record["fingerprint"], steps, terms, sources, accuracies(snapshot, run),
            trained_on(record), adapter is not None,
        )  # fmt: skip
        yield _content(files, lineage, record, repository)


def _terms(licence: str | None, steps: list[Step], sources: Mapping[str, str]) -> str:
    """The model's licence. That of a base from the Hub is not known here, so it is not guessed then."""
    if licence is None and (base := hub_base(steps)):
        run = steps[0].run
        raise ValueError(f"state the licence of model '{run}' with --licence: its base {base[0]} has one of its own")
    return settle(licence, sources.values(), "--licence" if licence else f"model '{steps[0].run}'")


def _content(files: Mapping[str, Path], lineage: Lineage, record: Mapping[str, Any], repository: str) -> Content:
    sent: dict[str, Local] = {path: local(at) for path, at in files.items()}
    sent[CARD] = local(model_card(lineage, repository).encode())
    provenance = {
        "kind": "model", "run": lineage.run, "revision": lineage.revision, "fingerprint": lineage.fingerprint,
        "adapter": lineage.is_adapter, "licence": lineage.licence, "licences": dict(lineage.sources),
        "made_from": as_json(lineage.steps), "record": without_places(record["provenance"]),
        "metrics": dict(lineage.metrics),
    }  # fmt: skip
    title = f"Model {lineage.run} at revision {lineage.revision[:12]}"
    return Content("model", title, lineage.licence, with_provenance(sent, provenance))


def _linked(snapshot: Snapshot, run: str, directory: Path) -> Path:
    """The model's directory as that version has it, of links into DVC's cache."""
    for name, at in snapshot.files(run_dir("models", run)).items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).symlink_to(at.absolute())
    return directory


def _check_files(directory: Path, files: Mapping[str, str]) -> None:
    for name, sha256 in files.items():
        if not (directory / name).is_file():
            raise ValueError(f"{name} of the model is missing; restore it with `dvc checkout`")
        check_file(directory / name, sha256, name, "restore the model with `dvc checkout`")


def _adapter(directory: Path) -> Path | None:
    """The model's LoRA adapter: the one it was trained as, or the one it came with."""
    return next((directory / name for name in (TRAINED_ADAPTER, ADAPTER) if (directory / name).is_dir()), None)


def _plain_base(steps: list[Step], adapter: Path) -> tuple[str, str]:
    """(repository, revision) of the Hub model that an adapter was trained on; raises ValueError where it is none."""
    base = hub_base(steps)
    if base is None:
        reason = "is not from the Hub"
    elif adapter.name == TRAINED_ADAPTER and (len(steps) > 2 or getattr(steps[-1].config, "path", NO_FILE) != NO_FILE):
        reason = "is itself changed here"
    else:
        return base
    raise ValueError(f"the base of model '{steps[0].run}' {reason}, so nobody could apply the adapter; use --merge")


def _adapter_files(directory: Path, adapter: Path, steps: list[Step], scratch: Path) -> dict[str, Path]:
    """The adapter as peft lays it out, with the Hub's name of its base, and the tokenizer."""
    base = _plain_base(steps, adapter)
    config = json.loads((adapter / _CONFIG).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base[0], "revision": base[1]}
    scratch.mkdir()
    (scratch / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer = {p.name: p for p in sorted(directory.iterdir()) if p.is_file() and p.name.startswith(_TOKENIZER)}
    return {_CONFIG: scratch / _CONFIG, _WEIGHTS: adapter / _WEIGHTS, **tokenizer}


def _whole_files(directory: Path, record: Mapping[str, Any], scratch: Path) -> dict[str, Path]:
    """Weights, configuration and tokenizer, an adapter merged."""
    if not any(name.endswith(".safetensors") for name in record["files"]):
        raise ValueError(f"a model made from `{record['provenance'].get('source')}` has no weights to publish")
    if (directory / ADAPTER).is_dir():
        load_model(directory).save_pretrained(scratch)
        load_tokenizer(directory).save_pretrained(scratch)
        return {path.name: path for path in sorted(scratch.iterdir())}
    return {name: directory / name for name in record["files"] if name != RECORD}


def trained_on(record: Mapping[str, Any]) -> str | None:
    """The published release that the model was trained on, where its record names one: ORG/NAME@v1.0."""
    release = record["provenance"].get("data", {}).get("release")
    return f"{release['repo']}@{release['revision']}" if release else None
