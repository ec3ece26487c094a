"""What the pages take from the library itself, so that they cannot disagree with it.

Loaded twice: by mkdocs as a hook, which fills in the `{{ ... }}` of the pages, and by mkdocstrings as a Griffe
extension, which writes out the constructors that Equinox generates.
"""

import importlib
import inspect
import json
import re
import runpy
from pathlib import Path

import griffe
import typer

import odeopt
from odeopt import cli

PUBLIC = {name: value for name, value in vars(odeopt).items() if isinstance(value, type)}


def on_page_markdown(markdown: str, **_) -> str:
    """A page with its `{{ ... }}` filled in.

    `{{ Class.parameter }}` is a default, `{{ module:CONSTANT }}` a number, `{{ results }}` the table of results,
    `{{ all AbstractFlow }}` the reference of every concrete flow, `{{ options train }}` the table of the
    options of a command, `{{ catalogue flows float64 }}` a table of benchmarks/catalogue.py,
    `{{ curvature pinns }}` one of benchmarks/curvature.py, `{{ data minibatch }}` one of
    benchmarks/data.py, and `{{ readme }}` the text of README.md.
    """
    return re.sub(r"\{\{ (.+?) \}\}", lambda match: _text(match[1]), markdown)


def _text(name: str) -> str:
    if name == "readme":
        return Path("README.md").read_text(encoding="utf-8").replace("(docs/", "(")
    if name == "results":
        rows = [f"| `{key}` | {odeopt.RESULTS[item]} |" for key, item in odeopt.RESULTS._name_to_item.items() if key]
        return "\n".join(["| result | sentence |", "|---|---|", *rows])
    if name.startswith("options "):
        return _options(name.removeprefix("options "))
    if name.startswith("catalogue "):
        return _catalogue(*name.split()[1:])
    if name.startswith("curvature "):
        results = json.loads(Path("benchmarks/results/curvature.json").read_text(encoding="utf-8"))
        return runpy.run_path("benchmarks/_curvature_tables.py")[name.removeprefix("curvature ")](results)
    if name.startswith("data "):
        results = json.loads(Path("benchmarks/results/data.json").read_text(encoding="utf-8"))
        return runpy.run_path("benchmarks/_data_tables.py")[name.removeprefix("data ")](results)
    if name.startswith("all "):
        kind = PUBLIC[name.removeprefix("all ")]
        return "\n\n".join(f"::: odeopt.{key}" for key, cls in PUBLIC.items() if _is_concrete(cls, kind))
    if ":" in name:
        module, constant = name.split(":")
        return f"{getattr(importlib.import_module(module), constant):g}"
    cls, parameter = name.split(".")
    default = inspect.signature(PUBLIC[cls]).parameters[parameter].default
    if default is inspect.Parameter.empty:
        raise ValueError(f"{name} has no default")
    return f"{default:g}" if isinstance(default, float) else str(default)


def _options(command: str) -> str:
    """The arguments and options of a command of the command line, as a table."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for parameter in typer.main.get_command(cli.app).commands[command].params:
        given = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name.upper()
        default = "" if parameter.default is None or parameter.default is False else f"`{parameter.default}`"
        rows.append(f"| `{given}` | {'required' if parameter.required else default} | {parameter.help} |")
    return "\n".join(rows)


def _catalogue(table: str, precision: str) -> str:
    """A table of the results that benchmarks/catalogue.py has left behind."""
    results = json.loads(Path("benchmarks/results/catalogue.json").read_text())
    return runpy.run_path("benchmarks/_tables.py")[table](results, precision)


def _is_concrete(cls: type, kind: type) -> bool:
    return issubclass(cls, kind) and not inspect.isabstract(cls)


class Constructors(griffe.Extension):
    """Gives every class without a written constructor the signature that it has at run time."""

    def on_class(self, *, cls: griffe.Class, **_) -> None:
        known = PUBLIC.get(cls.name)
        if known is None or issubclass(known, Exception):
            return
        if "__init__" in cls.members or known.__module__ != cls.module.path:
            return
        parameters = list(inspect.signature(known).parameters.values())
        if not parameters:
            return
        function = griffe.Function(
            "__init__",
            parameters=griffe.Parameters(griffe.Parameter("self"), *map(_parameter, parameters)),
            parent=cls,
        )
        cls.set_member("__init__", function)


def _parameter(parameter: inspect.Parameter) -> griffe.Parameter:
    default = parameter.default
    written = None if default is inspect.Parameter.empty else getattr(default, "__name__", repr(default))
    return griffe.Parameter(parameter.name, kind=griffe.ParameterKind.positional_or_keyword, default=written)
