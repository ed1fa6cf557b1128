"""No gold on the strong model's path: the graph of paths that DVC sees is walked, for every shipped params file.

Two models are given: the weak one, which was trained on gold of its own problems, and the strong base; where these are
tiny models of ours, a third set of problems gives their vocabulary. Behind what is
trained from them nothing may lie that was read from `answers` or `solutions`, or rewarded by gold.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import prompts
from schemas.params import load_params, parse_params
from stores.paths import run_dir
from stores.stage import execute
from tests import stage_world as world
from tests.conftest import REPOSITORY

GRAPH = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
FILES = [REPOSITORY / "params.yaml", *sorted((REPOSITORY / "recipes").glob("*.yaml"))]
GOLD_TRAINED = {"w2s_weak", "w2s_ceiling"}
"""Models of weak-to-strong recipes that gold may train; all others whose name starts with `w2s_` are on the path."""
FROM_PLUS = {"w2s_pro", "w2s_pro_orpo", "w2s_pro_single", "w2s_pro_self", "w2s_irpo"}
EVERY = FROM_PLUS | {"w2s_full_weak", "w2s_weak_ft", "w2s_icl_ft", "w2s_hybrid_1", "w2s_plus"}
_FIELD = re.compile(r"\$\{(key|item(?:\.\w+)+)\}")
_PROBLEMS = re.compile(r"data/problems/run=(?!none$)")
_GOLD = re.compile(r"data/(answers|solutions)/run=(?!none$)")

Graph = dict[str, tuple[str, list[str]]]
"""Path that a stage writes -> the stage, and the paths that it reads."""


def resolved(text: str, key: str, item: dict[str, Any]) -> str:
    """A path of dvc.yaml for one entry of its section, as DVC fills it in."""

    def value(match: re.Match[str]) -> str:
        found: Any = {"key": key, "item": item}
        for part in match[1].split("."):
            found = found[part]
        return str(found)

    return _FIELD.sub(value, text)


def graph_of(params: dict[str, Any]) -> Graph:
    """The graph of paths of a params file."""
    found: Graph = {}
    for stage, body in GRAPH.items():
        for key, item in params[stage].items() if "foreach" in body else ():
            deps = [resolved(dep, key, item) for dep in body["do"]["deps"]]
            for out in body["do"]["outs"]:
                found[resolved(out, key, item)] = (stage, deps)
    return found


def behind(graph: Graph, path: str, given: set[str]) -> Iterator[str]:
    """Every path that lies behind one, but not behind those that are given."""
    todo, seen = [path], {path}
    while todo:
        here = todo.pop()
        yield here
        _, deps = graph.get(here, ("", []))
        new = [] if here in given else [dep for dep in deps if dep not in seen]
        seen.update(new)
        todo += new


def model(name: str) -> str:
    return run_dir("models", name).as_posix()


def gold_behind(params: dict[str, Any], name: str) -> list[str]:
    """What a model of the path was made from and must not have been: gold, and the weak model's own problems."""
    graph = graph_of(params)
    given = {model("w2s_weak"), model(params["sft"]["w2s_weak_ft"]["model"])}
    found = list(behind(graph, model(name), given))
    assert len(found) > 10, "the walk goes somewhere"
    told = [path for path in found if graph.get(path, ("",))[0] in ("rewards", "evaluate", "samples_gold")]
    taught = {path for path in behind(graph, model("w2s_weak"), set()) if _PROBLEMS.match(path)}
    return sorted({*filter(_GOLD.match, found), *told, *taught.intersection(found), *known_to(params, graph, given)})


def known_to(params: dict[str, Any], graph: Graph, given: set[str]) -> set[str]:
    """Gold of the very questions behind the given models: theirs is that of other problems."""
    asked = {params["prompts"][run["prompts"]]["problems"] for run in params["demos_consistent"].values()}
    gold = {run_dir(table, name).as_posix() for table in ("answers", "solutions") for name in asked}
    return gold & {path for start in given for path in behind(graph, start, set())}


def trained_without(params: dict[str, Any]) -> set[str]:
    """Models of the strong model's path, ablations and all."""
    names = {*params["sft"], *params["preference"]}
    return {name for name in names if name.startswith("w2s_")} - GOLD_TRAINED


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


WEAK_TO_STRONG = [path for path in FILES if read(path)["pairs_contrast"]]


def test_every_recipe_of_weak_to_strong_is_walked():
    assert {path for path in FILES if path.stem.startswith("w2s_")} <= set(WEAK_TO_STRONG)
    assert len(WEAK_TO_STRONG) >= 7


@pytest.mark.parametrize("path", WEAK_TO_STRONG, ids=lambda path: path.stem)
def test_no_gold_lies_behind_the_strong_models(path: Path) -> None:
    params = read(path)
    trained = trained_without(params)
    assert {"w2s_weak_ft", "w2s_icl_ft", "w2s_plus", "w2s_pro", "w2s_pro_orpo"} <= trained
    assert [(name, found) for name in sorted(trained) if (found := gold_behind(params, name))] == []


@pytest.mark.parametrize("path", WEAK_TO_STRONG, ids=lambda path: path.stem)
def test_gold_lies_behind_the_ceiling_and_the_weak_model(path: Path) -> None:
    """So the walk would find it."""
    params = read(path)
    if "w2s_ceiling" in params["sft"]:
        assert gold_behind(params, "w2s_ceiling")
    if "w2s_weak" in params["sft"]:
        found = [path for path in behind(graph_of(params), model("w2s_weak"), set()) if _GOLD.match(path)]
        words = {run.get("vocabulary") for run in params["models"].values()}
        assert {path.partition("run=")[2] for path in found} - words == {"weak_train"}


def validated_on_gold(params: dict[str, Any]) -> None:
    of = next(iter(params["problems"]))
    params["sft"]["w2s_plus"]["validation"].update(prompts=next(iter(params["prompts"])), problems=of)


def chosen_by_gold(params: dict[str, Any]) -> None:
    """The pairs are those of samples that gold found right and wrong."""
    contrast = next(iter(params["pairs_contrast"].values()))
    samples, predictions = contrast["samples"], contrast["predictions"]
    of = params["predictions"][predictions]["problems"]
    params["rewards"]["by_gold"] = {"predictions": predictions, "problems": of}
    params["pairs_outcome"]["by_gold"] = {
        "samples": samples,
        "rewards": "by_gold",
        "step_labels": "none",
        "gold": "none",
        "k": 1,
    }
    params["preference"]["w2s_pro_orpo"].update(pairs="by_gold")


def imitating_gold(params: dict[str, Any]) -> None:
    """The agreement is looked for among what was trained on the ceiling's demos."""
    params["sft"]["w2s_weak_ft"]["demos"] = params["sft"]["w2s_ceiling"]["demos"]


def based_on_gold(params: dict[str, Any]) -> None:
    """The base was trained on the questions' own solutions."""
    params["sft"]["w2s_weak_ft"]["model"] = "w2s_ceiling"


def weak_on_gold(params: dict[str, Any]) -> None:
    """The weak model was trained on the questions that it answers."""
    params["sft"]["w2s_weak"]["demos"] = params["sft"]["w2s_ceiling"]["demos"]


@pytest.mark.parametrize(
    ("spoil", "spoilt"),
    [
        (validated_on_gold, FROM_PLUS | {"w2s_plus"}),
        (chosen_by_gold, {"w2s_pro_orpo"}),
        (imitating_gold, FROM_PLUS | {"w2s_plus", "w2s_weak_ft"}),
        (based_on_gold, EVERY),
        (weak_on_gold, EVERY),
    ],
)
def test_a_path_with_gold_is_found(spoil: Any, spoilt: set[str]) -> None:
    params = read(REPOSITORY / "recipes" / "w2s_gsm8k_llama2_7b.yaml")
    spoil(params)
    assert {name for name in trained_without(params) if gold_behind(params, name)} == spoilt


def test_the_graph_is_dvcs(tmp_path: Path) -> None:
    """Every slot of every run is a path that its stage reads."""
    path = REPOSITORY / "recipes" / "w2s_gsm8k_llama2_7b.yaml"
    graph, params = graph_of(read(path)), load_params(path)
    for name, run in params.pairs_contrast.items():
        _, deps = graph[run_dir("pairs", name).as_posix()]
        slots = {"samples": run.samples, "predictions": run.predictions, "votes": run.votes}
        assert {run_dir(table, of).as_posix() for table, of in slots.items()} <= set(deps)
    assert parse_params(path.read_text()) == params


def test_prompts_show_no_gold(workspace: Path) -> None:
    """Neither zero-shot nor with the weak model's answers as demonstrations; the gold answer is nowhere in them."""
    problems = [world.problem(f"What is {i} apples and one?") for i in range(6)]
    weak = [world.sample(world.prompt(p), 0, f"It is perhaps {i}.") for i, p in enumerate(problems)]
    ordered = sorted(problems, key=lambda p: p.problem_id)
    shots = {"problems": "train", "template": "weak_to_strong", "rendering": "text", "demo_samples": "drawn",
             "demo_problems": "train", "shots": 4}  # fmt: skip
    world.write_params(prompts={"train": world.PROMPTS, "icl": shots})
    world.write("problems", "train", ordered)
    world.write("answers", "train", [world.answer(p, "gold-777") for p in ordered])
    world.write("solutions", "train", [world.solution(p, "Solved: gold-777") for p in ordered])
    world.write("samples", "drawn", sorted(weak, key=lambda s: s.sample_id))
    execute("prompts", "icl", prompts.run)
    texts = [message["content"] for row in world.read("prompts", "icl") for message in row["messages"]]
    assert sum("It is perhaps" in text for text in texts) == 6 * 4
    assert not any("777" in text for text in texts)
