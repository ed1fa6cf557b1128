"""One run of any version as a directory: the same bytes again, the revision in it, and nothing half-written, ever."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from builders import export
from builders.exporting import release
from builders.exporting.card import stamp
from builders.materialize import materialize
from stores.stage import execute
from stores.store import Store
from tests import export_world as world
from tests.conftest import REPOSITORY
from tests.pipeline import kill, wait_for
from tests.versions import Project

NEW_WRONG = world.WRONG.replace("6", "9")


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions: in the second one the wrong samples read differently."""
    root = tmp_path_factory.mktemp("versions")
    made = Project(root)
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(root):
        world.build()
        made.commit(tag="v1.0")
        patch.setattr(world, "WRONG", NEW_WRONG)
        world.build()
        made.commit(tag="v2.0")
    return root


@pytest.fixture
def project(versions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of these, and of the second one's world."""
    monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(tmp_path / "ledger"))
    root = tmp_path / "project"
    shutil.copytree(versions, root)
    monkeypatch.chdir(root)
    monkeypatch.setattr(world, "WRONG", NEW_WRONG)
    return Project.of(root)


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def rejected(directory: Path, config: str = "pairs") -> set[str]:
    (path,) = (directory / config).iterdir()
    return set(pq.read_table(path)["rejected"].to_pylist())


def of(revision: str | None, run: str = "whole", to: str = "out", **more: Any) -> Path:
    with Store.open(rev=revision) as store:
        materialize(store, run, Path(to), **more)
    return Path(to)


def test_a_version_is_materialized_without_a_checkout(project: Project) -> None:
    old = rejected(of("v1.0", to="old"))
    assert old == {world.WRONG.replace("9", "6")}
    shutil.rmtree("data/samples")
    assert rejected(of("v2.0", to="new")) == {world.WRONG}


def test_it_names_the_revision_and_the_texts(project: Project) -> None:
    directory = of("v1.0")
    commit = project.git("rev-parse", "v1.0").strip()
    record = json.loads((directory / "provenance.json").read_text())
    assert record["revision"] == commit
    assert f"Revision `{commit}`" in (directory / "README.md").read_text()
    assert record["models"]["base"]["fingerprints"] == ["abcdef0123456789"]
    assert (
        record["configs"]["pairs"]["texts"]
        != json.loads((of("v2.0", to="b") / "provenance.json").read_text())["configs"]["pairs"]["texts"]
    )


def test_a_second_one_has_the_same_bytes(project: Project) -> None:
    first = bytes_of(of("v1.0"))
    assert bytes_of(of("v1.0")) == first
    assert bytes_of(of("v1.0", to="elsewhere")) == first
    assert not list(Path().glob(".*unfinished*"))


def test_step_pairs_and_demos(project: Project) -> None:
    assert rejected(of("v2.0", "step"), "step_pairs") == {"2 * 4 = 9."}
    (path,) = (of("v2.0", "star", table="demos") / "demos").iterdir()
    assert pq.read_table(path)["completion"].to_pylist() == [world.RIGHT] * 2


def test_conversations_are_messages_unless_a_model_renders_them(project: Project) -> None:
    world.write_model()
    project.commit(tag="v3.0")
    shutil.rmtree("data/models/words")
    prompts = []
    for model in (None, "words"):
        (path,) = (of("v3.0", "said", model=model) / "pairs").iterdir()
        prompts.append(pq.read_table(path)["prompt"][0].as_py())
    assert prompts[0][0] == {"role": "system", "content": "Be brief."}
    assert prompts[1].startswith("system:\nBe brief.\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"run": "hole"}, r"no run 'hole' of pairs in params.yaml \(did you mean 'whole'\?\)"),
        ({"table": "samples"}, "table 'samples' is not one that training reads"),
        ({"run": "said", "form": "standard"}, "name the model that has it in `model`"),
        ({"form": "conversational"}, "say `format: standard`"),
        ({"model": "worlds"}, "no run 'worlds' of models in params.yaml"),
        ({"model": "words"}, "data/models/words"),
        ({"to": "data"}, "data: not empty, and no earlier release of ours; name another"),
        ({"to": "params.yaml"}, "params.yaml: a file; name a directory"),
    ],
)
def test_a_mistake_is_one_line(project: Project, arguments: dict[str, Any], said: str) -> None:
    before = bytes_of(Path())
    with pytest.raises(ValueError, match=said) as error:
        of(None, **arguments)
    assert "\n" not in str(error.value)
    assert bytes_of(Path()) == before


def test_two_at_once_are_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = release._written

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(release, "_written", inside)
        with pytest.raises(ValueError, match=r"another process \(\d+\) writes out; wait until it has ended"):
            of("v2.0")
        return inside(*arguments)

    monkeypatch.setattr(release, "_written", meanwhile)
    assert rejected(of("v1.0")) == {world.WRONG.replace("9", "6")}


def test_a_release_is_stamped(project: Project) -> None:
    directory = world.release(pairs=["whole"])
    shards = {path: content for path, content in bytes_of(directory).items() if path.endswith(".parquet")}
    stamp(directory, "0" * 40, "team/pairs")
    stamp(directory, "1" * 40)
    assert json.loads((directory / "provenance.json").read_text())["revision"] == "1" * 40
    card = (directory / "README.md").read_text()
    assert ("1" * 40 in card, "0" * 40 in card, 'load_dataset("team/pairs", "pairs"' in card) == (True, False, True)
    assert {path: content for path, content in bytes_of(directory).items() if path.endswith(".parquet")} == shards


COMMAND = "from stores.__main__ import main; main()"


def command(*arguments: str, wrapped: list[str] | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`pairwright` in a process of its own."""
    own = [*(wrapped or []), sys.executable, "-c", COMMAND, *arguments]
    return subprocess.run(
        own, env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment, capture_output=True, text=True, check=False
    )


def many(count: int) -> None:
    """Samples with long texts, so that writing takes a while and some space."""
    asked = world.world.prompt(world.problems()[0], world.PREFILL)
    texts = [random.Random(i).randbytes(16_000).hex() for i in range(count)]
    samples = [world.world.sample(asked, i, text) for i, text in enumerate(texts)]
    world.world.write("samples", "drawn", samples)
    pairs = [world.pair(asked, samples[i], samples[i + 1]).model_copy(update={"rank": i}) for i in range(count - 1)]
    world.world.write("pairs", "whole", pairs)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_what_was_there(project: Project, tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=3m tmpfs "{tmp_path / "small"}" && exec "$@"'
    (tmp_path / "small").mkdir()
    wrapped = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    possible = subprocess.run([*wrapped, "true"], capture_output=True, check=False) if shutil.which("unshare") else None
    if possible is None or possible.returncode:
        pytest.skip("no file system can be mounted here")
    many(200)
    looked = f'"$@"; code=$?; ls -A {tmp_path / "small"}; exit $code'
    done = command(
        "materialize", "--run", "whole", str(tmp_path / "small/out"), wrapped=[*wrapped, "sh", "-c", looked, "sh"]
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "pairs run 'whole': no room for the release after" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("what", ["export", "materialize"])
def test_a_killed_one_leaves_the_last_good_state(project: Project, what: str) -> None:
    """It is killed while it writes shards; the next one is as if nothing had happened."""
    world.write_params({"everything": {"pairs": ["whole"], "model": "none"}})
    target = Path("data/export/everything" if what == "export" else "out")
    make(what)
    good = bytes_of(target)
    many(1500)
    staged = Path("data/.staging" if what == "export" else ".out.unfinished")
    program = (
        "from stores.stage import execute\nfrom builders import export\nexecute('export', 'everything', export.run)"
    )
    call = ["-c", program] if what == "export" else ["-c", COMMAND, "materialize", "--run", "whole", "out"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, *call], env=environment, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    wait_for(lambda: any(p.stat().st_size > 1_000_000 for p in _files(staged)), "shard")
    kill(process)
    assert bytes_of(target) == good
    make(what)
    assert rejected(target) != rejected_in(good)
    assert not _files(staged)


def make(what: str) -> None:
    if what == "export":
        execute("export", "everything", export.run)
    else:
        of(None)


def _files(directory: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return [p for p in directory.rglob("shard-*") if p.is_file()]
    return []


def rejected_in(files: dict[str, bytes]) -> set[str]:
    import pyarrow as pa

    (content,) = (content for name, content in files.items() if name.startswith("pairs/"))
    return set(pq.read_table(pa.BufferReader(content))["rejected"].to_pylist())
