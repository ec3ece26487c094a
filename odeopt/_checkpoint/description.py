"""What a tree is made of, in words: to compare what a checkpoint holds with what a run needs."""

import dataclasses
from typing import Any

import jax
from jaxtyping import PyTree

from .leaves import leaf_words

CONTAINERS = (dict, list, tuple)


def described(tree: PyTree, name: str = "", values: bool = False) -> dict[str, str]:
    """The kind of every node and leaf by its path: "parameters.layers[0].weight": "shape (32, 64) float32".

    Names of classes and static settings are written down, but no module: a class may move.

    **Arguments:** `name`: of the tree, in front of every path; `values`: whether the values of Python's numbers count.
    """
    entries: dict[str, str] = {}
    _describe(tree, name, values, entries)
    return entries


def described_leaves(tree: PyTree, name: str = "") -> dict[str, str]:
    """The leaves alone, by their paths: for a tree whose shapes tell more than the settings of its nodes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_joined(name, jax.tree_util.keystr(path)): leaf_words(leaf, values=False) for path, leaf in leaves}


def _describe(node: Any, path: str, values: bool, entries: dict[str, str]) -> None:
    children, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda other: other is not node)
    if len(children) == 1 and children[0][0] == ():
        entries[path] = leaf_words(node, values)
        return
    if not children or not isinstance(node, CONTAINERS):
        entries[path] = "nothing" if node is None else type(node).__name__
    for name, setting in _static_settings(node):
        entries[_joined(path, f".{name}")] = setting
    for key, child in children:
        _describe(child, _joined(path, jax.tree_util.keystr(key)), values, entries)


def _joined(path: str, key: str) -> str:
    return path + key if path else key.removeprefix(".")


def _static_settings(node: Any) -> list[tuple[str, str]]:
    """The static fields of a module, those of a simple kind with their value."""
    if not dataclasses.is_dataclass(node):
        return []
    fields = [field.name for field in dataclasses.fields(node) if field.metadata.get("static", False)]
    return [(name, _setting_words(getattr(node, name, None))) for name in fields]


def _setting_words(value: Any) -> str:
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_setting_words, value))})"
    return leaf_words(value, values=False)


def first_difference(saved: dict[str, str], present: dict[str, str]) -> str | None:
    """Where two descriptions part, as a sentence without its full stop; `None` where they agree."""
    for path, words in present.items():
        before = saved.get(path)
        if before is None:
            return f"{path}: the checkpoint has nothing there, this run {words}"
        if before != words:
            return f"{path}: the checkpoint has {before}, this run {words}"
    for path, words in saved.items():
        if path not in present:
            return f"{path}: the checkpoint has {words}, this run nothing there"
    return None
