"""Values set in a file that a person wrote: everything else stays, to the byte."""

import pytest
import yaml

from stores.yaml_edit import set_values

PATH = ("artifacts", "pairs", "meta", "version")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "artifacts:\n  pairs:\n    meta:\n      version: v1.0\n"),
        ("# c\nstages: {}", "# c\nstages: {}\nartifacts:\n  pairs:\n    meta:\n      version: v1.0\n"),
        ("artifacts: {}\nstages: {}\n", "artifacts:\n  pairs:\n    meta:\n      version: v1.0\nstages: {}\n"),
        (
            "artifacts:\n    pairs:  # ours\n        path: 'x'  # c\n\n# after\nstages: {}\n",
            "artifacts:\n    pairs:  # ours\n        path: 'x'  # c\n        meta:\n          version: v1.0\n\n"
            "# after\nstages: {}\n",
        ),
        (
            'artifacts:\n  pairs:\n    meta:\n      version: "v0.9"  # last\n      rows: 3\n',
            "artifacts:\n  pairs:\n    meta:\n      version: v1.0  # last\n      rows: 3\n",
        ),
        (
            "artifacts:\n  pairs:\n    meta:\n      version:\n  other:\n    path: x\n",
            "artifacts:\n  pairs:\n    meta:\n      version: v1.0\n  other:\n    path: x\n",
        ),
        (
            "artifacts:\n  pairs:\n    meta:\n      a: |\n        x\n        y\nstages: {}\n",
            "artifacts:\n  pairs:\n    meta:\n      a: |\n        x\n        y\n      version: v1.0\nstages: {}\n",
        ),
        ("stages:\r\n  a:\r\n    cmd: x\r\n", "stages:\r\n  a:\r\n    cmd: x\r\nartifacts:\r\n  pairs:\r\n"
         "    meta:\r\n      version: v1.0\r\n"),
    ],
)  # fmt: skip
def test_a_value_is_set_in_its_place(text: str, expected: str) -> None:
    assert set_values(text, {PATH: "v1.0"}, "dvc.yaml") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n  runs: [x,   y]  # c\nb: 1\n", "a:\n  runs: [p, q, r]  # c\nb: 1\n"),
        ("a:\n  runs:\n  - x\n  - y  # c\nb: 1\n", "a:\n  runs:\n  - p\n  - q\n  - r  # c\nb: 1\n"),
        ("a:\n  runs:\n    - x\nb: 1\n", "a:\n  runs:\n    - p\n    - q\n    - r\nb: 1\n"),
    ],
)
def test_a_list_keeps_its_style(text: str, expected: str) -> None:
    assert set_values(text, {("a", "runs"): ["p", "q", "r"]}, "dvc.yaml") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("artifacts:\n  pairs: {path: x}\n", "dvc.yaml: 'artifacts.pairs' is not in block style; write"),
        ("artifacts: [x]\n", "dvc.yaml: artifacts.pairs.meta.version: 'artifacts' holds no settings"),
        (
            "artifacts:\n  pairs:\n    meta:\n      version: >\n        v0.9\n",
            "dvc.yaml: 'artifacts.pairs.meta.version' is not in one line; write `artifacts.pairs.meta.version: v1.0`",
        ),
        ("x: &x\n  pairs: {}\nartifacts: *x\n", "dvc.yaml: cannot be edited safely; write"),
    ],
)
def test_what_cannot_be_edited_is_said_with_what_to_write(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        set_values(text, {PATH: "v1.0"}, "dvc.yaml")
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("value", ["yes", "1.0", "a: b", "# x", "é", "'", '"', "- x", "{", "v1.0", 3])
def test_any_value_reads_back(value: str | int) -> None:
    assert yaml.safe_load(set_values("stages: {}\n", {("a", "b"): value}, "dvc.yaml"))["a"]["b"] == value
