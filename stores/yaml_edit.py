"""Sets single values in a YAML file that a person wrote: comments, order, quotes and other lines stay as they are."""

from collections.abc import Sequence
from typing import Any

import yaml

Path = Sequence[str]
"""Keys from the top of a document to a value."""


def set_values(text: str, values: dict[tuple[str, ...], Any], name: str) -> str:
    """The text of a file of mappings with values set (keys that it lacks are added behind their siblings).

    Values are scalars or lists of strings. Raises ValueError where that cannot be done without rewriting the file, such
    as in a mapping in flow style; it then says what to write by hand.
    """
    wanted = _unshared(yaml.safe_load(text)) or {}
    for path, value in values.items():
        _put(wanted, path, value, name)
        text = _set(text, path, value, name)
    if yaml.safe_load(text) != wanted:
        raise ValueError(f"{name}: cannot be edited safely; {_by_hand(values)}")
    return text


def _unshared(data: Any) -> Any:
    """A copy in which nothing that an alias names is the same object: setting a value must not set another one."""
    if isinstance(data, dict):
        return {key: _unshared(value) for key, value in data.items()}
    return [_unshared(value) for value in data] if isinstance(data, list) else data


def _put(data: Any, path: Path, value: Any, name: str) -> None:
    for key in path[:-1]:
        data = data.setdefault(key, {}) if isinstance(data, dict) else None
        if not isinstance(data, dict):
            raise ValueError(f"{name}: {'.'.join(path)}: '{key}' holds no settings; write it as a mapping")
    data[path[-1]] = value


def _set(text: str, path: Path, value: Any, name: str) -> str:
    """One value set, at the place where it stands or in a new line."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    node, depth = _descend(root, path)
    newline = _newline(text)
    if depth == len(path):
        return _replaced(text, node, value, path, name)
    block = _lines(path[depth:], value, _indent(node, depth)).replace("\n", newline)
    if depth == 0 and (node is None or isinstance(node, yaml.MappingNode)):
        return _ended(text, newline) + block
    if not isinstance(node, yaml.MappingNode) or (_is_flow(node) and node.value):
        raise ValueError(f"{name}: '{'.'.join(path[:depth])}' is not in block style; {_by_hand({tuple(path): value})}")
    if not node.value:  # `key: {}`
        start, end = node.start_mark.index, node.end_mark.index
        return text[:start].rstrip(" ") + newline + block.rstrip() + text[end:]
    at = _line_end(text, _last(node).end_mark.index)
    return _ended(text[:at], newline) + block + text[at:]


def _descend(root: yaml.Node | None, path: Path) -> tuple[yaml.Node | None, int]:
    """The deepest node on the way to a value, and how many keys of the path lead to it."""
    node = root
    for depth, key in enumerate(path):
        found = {k.value: v for k, v in node.value} if isinstance(node, yaml.MappingNode) else {}
        if key not in found:
            return node, depth
        node = found[key]
    return node, len(path)


def _replaced(text: str, node: yaml.Node | None, value: Any, path: Path, name: str) -> str:
    assert node is not None
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.SequenceNode) and not _is_flow(node) and isinstance(value, list) and value:
        items = f"\n{' ' * node.start_mark.column}".join(f"- {_inline(item)}" for item in value)
        return text[:start] + items.replace("\n", _newline(text)) + text[_last(node).end_mark.index :]
    inline = node.style in (None, "'", '"') if isinstance(node, yaml.ScalarNode) else _is_flow(node)
    if not inline:
        raise ValueError(f"{name}: '{'.'.join(path)}' is not in one line; {_by_hand({tuple(path): value})}")
    gap = " " if start and text[start - 1] == ":" else ""  # `key:` without a value
    return text[:start] + gap + _inline(value) + text[end:]


def _indent(node: yaml.Node | None, depth: int) -> int:
    """The column of a mapping's keys; of an empty one, two more than that of its own."""
    if isinstance(node, yaml.MappingNode) and node.value:
        return node.value[0][0].start_mark.column
    return 2 * depth


def _last(node: yaml.Node) -> yaml.Node:
    """What a mapping or list ends with."""
    while isinstance(node, yaml.CollectionNode) and node.value and not _is_flow(node):
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    return node


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _is_flow(node: yaml.Node) -> bool:
    return isinstance(node, yaml.CollectionNode) and bool(node.flow_style)


def _line_end(text: str, at: int) -> int:
    """The start of the next line, for what ends at a place; a block scalar ends where its last line does."""
    if at and text[at - 1] == "\n":
        return at
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def _ended(text: str, newline: str) -> str:
    return text if not text or text.endswith("\n") else text + newline


def _lines(path: Path, value: Any, indent: int) -> str:
    """New lines that set a value below the keys that are still missing."""
    keys = [" " * (indent + 2 * depth) + f"{key}:" for depth, key in enumerate(path)]
    return "\n".join(keys) + f" {_inline(value)}\n"


def _inline(value: Any) -> str:
    """A value in one line."""
    written = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return written.removesuffix("\n").removesuffix("\n...")


def _by_hand(values: dict[tuple[str, ...], Any]) -> str:
    return "write " + ", ".join(f"`{'.'.join(path)}: {_inline(value)}`" for path, value in values.items())
