"""Publishing models: weights or a LoRA adapter alone, with a card of their lineage; transformers loads them again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from huggingface_hub import HfApi

import builders.models
import tests.training_world as world
from builders.exporting.provenance import without_places
from builders.model_files import TRAINED_ADAPTER, load_model, read_record, write_record
from builders.models import copy_model
from builders.publishing.hub_repository import HubRepository
from builders.publishing.lineage import as_json, model_steps, source_licences
from builders.publishing.model import model_content, trained_on
from builders.publishing.model_card import Lineage, model_card
from builders.publishing.plans import Content
from builders.publishing.publishing import publish
from schemas.params import parse_params
from stores.stage import execute
from tests.hub_api import WRITE, Hub, hub
from tests.publish_world import Project
from tests.test_adapters import write_adapter
from tests.test_publish_clients import Client

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # in huggingface_hub, of httpx2
LORA = {"preference.dpo.lora": {"rank": 4}, "preference.dpo.optimizer.lr": 0.05}
METRICS = {
    "models": {
        "after": {"model": "dpo", "problems": "test", "n": 40, "accuracy": 0.5, "ci95": [0.35, 0.65], "maj_4": 0.6}
    }
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A model `tiny` and `dpo`, trained from it with LoRA, and a report; all committed."""
    root = tmp_path_factory.mktemp("trained")
    made = Project(root / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAIRWRIGHT_LEDGER", str(root / "ledger"))
        world.build(made.root, changes=LORA)
        world.run(made.root, "reference.sums", "preference.dpo")
    (made.root / "data/report").mkdir()
    (made.root / "data/report/metrics.json").write_text(json.dumps(METRICS))
    made.track("data/models/tiny", "data/models/dpo", "data/report")
    return made


@pytest.fixture
def project(trained: Project, workspace: Path) -> Project:
    """A copy of it, which is the working directory."""
    return trained.copy(workspace)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    with hub(tmp_path / "hub") as running:
        yield running


def send(server: Hub, run: str, **options: Any) -> Content:
    repo = HubRepository(f"team/{run}", "model", HfApi(endpoint=server.endpoint, token=WRITE))
    with model_content(Path(), run, repository=f"team/{run}", **options) as content:
        publish(repo, content, "v1.0")
    return content


def from_hub(project: Project, server: Hub) -> None:
    """Lets `tiny` come from the Hub, as most bases do."""
    send(server, "tiny")
    revision = server.repositories.resolve("models", "team/tiny", "main")
    base = {"path": "data/none", "vocabulary": "none", "hub": "team/tiny", "revision": revision}
    world.set_params(project.root, LORA | {"models.tiny": base})
    project.commit("the base is on the Hub")


def card(server: Hub, run: str) -> tuple[dict[str, Any], str]:
    """Front matter and text of a published model's card."""
    _, front, text = server.repositories.content("models", f"team/{run}", "README.md").decode().split("---\n", 2)
    return yaml.safe_load(front), text


LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
name, adapter = sys.argv[1], sys.argv[2] == "adapter"
if adapter:
    from peft import AutoPeftModelForCausalLM as AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(name, revision="v1.0", dtype=torch.float32).eval()
print(AutoTokenizer.from_pretrained(name).encode("What is 3 plus 4?"))
with torch.no_grad():
    print(model(torch.arange(3, 12)[None]).logits.flatten().tolist())
"""


def loaded(server: Hub, cache: Path, name: str, kind: str) -> tuple[list[int], torch.Tensor]:
    """Token ids and logits of a published model, as transformers gives them in a process of its own."""
    done = Client(server, cache)("-c", LOAD, name, kind)
    ids, logits = map(json.loads, done.splitlines()[-2:])
    return ids, torch.tensor(logits)


def logits(directory: str) -> torch.Tensor:
    with torch.no_grad():
        return load_model(Path(directory))(torch.arange(3, 12)[None]).logits.flatten()


@pytest.mark.slow
def test_a_model_and_its_adapter_are_loaded_from_the_hub_again(project: Project, server: Hub, tmp_path: Path) -> None:
    from_hub(project, server)
    with pytest.raises(ValueError, match="state the licence of model 'dpo' with --licence: its base team/tiny has one"):
        send(server, "dpo")
    send(server, "dpo", licence="apache-2.0")
    files = set(server.repositories.files("models", "team/dpo"))
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "README.md",
        "provenance.json",
    } <= files
    assert "model.safetensors" not in files
    _, base = loaded(server, tmp_path / "cache", "team/tiny", "whole")
    assert torch.allclose(base, logits("data/models/tiny"), atol=1e-6)
    ids, adapted = loaded(server, tmp_path / "cache", "team/dpo", "adapter")
    expected = logits("data/models/dpo")
    assert torch.allclose(adapted, expected, atol=1e-5)
    assert not torch.allclose(adapted, base, atol=1e-2)
    assert ids
    front, text = card(server, "dpo")
    revision = server.repositories.resolve("models", "team/tiny", "main")
    assert (front["base_model"], front["base_model_relation"], front["library_name"]) == (
        "team/tiny",
        "adapter",
        "peft",
    )
    assert f"[team/tiny](https://huggingface.co/team/tiny) at `{revision[:12]}`" in text


@pytest.mark.slow
def test_merged_weights_are_what_was_trained(project: Project, server: Hub, tmp_path: Path) -> None:
    send(server, "dpo", merge=True)
    _, whole = loaded(server, tmp_path / "cache", "team/dpo", "whole")
    assert torch.equal(whole, logits("data/models/dpo"))
    front, text = card(server, "dpo")
    assert front["license"] == "cc0-1.0"
    assert front["tags"][-1] == "dpo-nll"
    assert "| dpo | preference `dpo-nll` | pairs run `sums` |" in text
    assert "| `optimizer.lr` | 0.05 |" in text
    assert "| before |" not in text
    assert "| after | test | 40 | 50.0 % (35.0 – 65.0) | maj_4 60.0 % |" in text
    provenance = json.loads(server.repositories.content("models", "team/dpo", "provenance.json"))
    assert provenance["revision"] == project.git("rev-parse", "HEAD")
    assert provenance["fingerprint"] == read_record(Path("data/models/dpo"))["fingerprint"]
    assert [step["run"] for step in provenance["made_from"]] == ["dpo", "tiny"]


@pytest.mark.slow
def test_the_command_publishes_a_model(project: Project, server: Hub, tmp_path: Path) -> None:
    client = Client(server, tmp_path / "home")
    out = client("-m", "stores", "publish", "team/dpo", "--model", "dpo", "--merge", "--tag", "v1.0")
    assert out.splitlines()[-1] == f"published: {server.endpoint}/team/dpo"
    assert server.repositories.refs("models", "team/dpo")["tags"]
    refused = client.start("-m", "stores", "publish", "team/dpo", "--model", "dpo", "--test-answers")
    with refused:
        _, err = refused.communicate()
    assert err == "pairwright: --test-answers does not go with --model; leave it out\n"


@pytest.mark.slow
def test_a_model_that_comes_back_has_the_same_fingerprint(project: Project, server: Hub, tmp_path: Path) -> None:
    send(server, "dpo", merge=True)
    there, here = tmp_path / "there", tmp_path / "here"
    here.mkdir()
    for path in server.repositories.files("models", "team/dpo"):
        (there / path).parent.mkdir(parents=True, exist_ok=True)
        (there / path).write_bytes(server.repositories.content("models", "team/dpo", path))
    copy_model(there, here, False, "hub")
    assert write_record(here, {"source": "hub"}) == read_record(Path("data/models/dpo"))["fingerprint"]


@pytest.mark.slow
def test_an_adapter_that_came_from_elsewhere_is_merged(project: Project, server: Hub) -> None:
    write_adapter(Path("data/models/tiny"), Path("theirs"))
    world.set_params(project.root, LORA | {"models.adapted": {"path": "theirs", "vocabulary": "none"}})
    execute("models", "adapted", builders.models.run, project.root)
    project.track("data/models/adapted")
    with pytest.raises(ValueError, match=r"the base of model 'adapted' is not from the Hub, .*; use --merge"):
        send(server, "adapted", licence="mit")
    for _ in range(2):
        content = send(server, "adapted", licence="mit", merge=True)
    assert len(server.repositories.history("models", "team/adapted")) == 2, "the same weights, the same bytes"
    assert "adapter/adapter_model.safetensors" not in content.files
    merged = server.repositories.content("models", "team/adapted", "model.safetensors")
    expected = load_model(Path("data/models/adapted")).state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in safetensors.torch.load(merged).items())


@pytest.mark.slow
def test_a_base_that_nobody_could_fetch_is_refused(project: Project, server: Hub) -> None:
    with pytest.raises(ValueError, match=r"the base of model 'dpo' is not from the Hub, .*; use --merge"):
        send(server, "dpo")


@pytest.mark.slow
def test_a_second_publish_makes_no_commit_and_other_weights_do(project: Project, server: Hub) -> None:
    for _ in range(2):
        send(server, "tiny")
    assert len(server.repositories.history("models", "team/tiny")) == 2
    path = project.root / "data/models/tiny/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 1e-5}))
    write_record(path.parent, {"source": "config"})
    project.track("data/models/tiny")
    with pytest.raises(ValueError, match=r"tag 'v1.0' is there, .* holds something else"):
        send(server, "tiny")


@pytest.mark.slow
def test_the_trained_adapter_is_kept_and_changes_no_fingerprint(project: Project) -> None:
    directory = project.root / "data/models/dpo"
    record = read_record(directory)
    kept = {path.relative_to(directory).as_posix() for path in (directory / TRAINED_ADAPTER).iterdir()}
    assert set(record["trained_adapter"]) == kept
    assert len(kept) == 2
    for path in (directory / TRAINED_ADAPTER).iterdir():
        path.unlink()
    (directory / TRAINED_ADAPTER).rmdir()
    assert write_record(directory, record["provenance"]) == record["fingerprint"]


@pytest.mark.slow
def test_damaged_weights_are_never_sent(project: Project, server: Hub) -> None:
    weights = project.root / "data/models/tiny/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    project.track("data/models/tiny")
    with pytest.raises(ValueError, match=r"model.safetensors: damaged or changed .* `dvc checkout`"):
        send(server, "tiny")
    assert server.asked == []


@pytest.mark.slow
def test_a_licence_laxer_than_the_data_is_refused(project: Project, server: Hub) -> None:
    problems = world.PARAMS["problems"]["train"] | {"licence": "CC-BY-NC-4.0"}
    world.set_params(project.root, LORA | {"problems.train": problems})
    project.commit()
    with pytest.raises(ValueError, match=r"--licence: licence 'mit' is laxer than that of a source: "):
        send(server, "dpo", merge=True, licence="mit")
    assert send(server, "dpo", merge=True).licence == "cc-by-nc-4.0"


WRONG = {
    "unknown": ("other", r"no model 'other' in params.yaml \(have tiny, warm, dpo\)"),
    "not built": ("warm", r"data/models/warm: neither DVC nor Git tracks it"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("run", "message"), WRONG.values(), ids=WRONG)
def test_models_that_are_not_there(project: Project, server: Hub, run: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        send(server, run)


def test_a_place_on_ones_own_disk_is_not_published() -> None:
    params = parse_params(yaml.safe_dump(world.PARAMS), older=True)
    (first,) = model_steps(params, "tiny")
    config = first.config.model_copy(update={"path": "/home/me/models/base"})
    assert as_json([first._replace(config=config)])[0]["params"]["path"] == "base"
    record = {"source": "adapter", "path": "../mine/adapter", "base": "/home/me/base", "data": {"path": "data/x"}}
    assert without_places(record) == record | {"path": "adapter", "base": "base"}


def test_the_card_names_the_release_that_a_model_was_trained_on() -> None:
    params = parse_params(yaml.safe_dump(world.PARAMS), older=True)
    record = {"provenance": {"data": {"release": {"repo": "team/sums", "revision": "v1.0", "commit": "0" * 40}}}}
    lineage = Lineage(
        "dpo", "1" * 40, "2" * 16, model_steps(params, "dpo"), "mit", source_licences(params, "dpo"), {},
        trained_on(record), False,
    )  # fmt: skip
    front, text = model_card(lineage).split("---\n")[1:]
    assert yaml.safe_load(front)["datasets"] == ["team/sums"]
    assert "Trained on the published data set `team/sums@v1.0`." in text
    assert "| `train` | CC0-1.0 |" in text
    assert trained_on({"provenance": {"data": {"release": None}}}) is None
