"""What the pages take from the library itself, so that they cannot disagree with it.

Loaded twice: by mkdocs as a hook, which fills in the `{{ ... }}` of the pages, and by mkdocstrings as a Griffe
extension, which writes out the constructors that Equinox generates.
"""

import importlib
import inspect
import re

import griffe

import odeopt


def on_page_markdown(markdown: str, **_) -> str:
    """A page with `{{ Class.parameter }}`, `{{ module:CONSTANT }}` and `{{ results }}` filled in."""
    return re.sub(r"\{\{ (\S+) \}\}", lambda match: _text(match[1]), markdown)


def _text(name: str) -> str:
    if name == "results":
        rows = [f"| `{key}` | {odeopt.RESULTS[item]} |" for key, item in odeopt.RESULTS._name_to_item.items() if key]
        return "\n".join(["| result | sentence |", "|---|---|", *rows])
    if ":" in name:
        module, constant = name.split(":")
        return f"{getattr(importlib.import_module(module), constant):g}"
    cls, parameter = name.split(".")
    default = inspect.signature(getattr(odeopt, cls)).parameters[parameter].default
    if default is inspect.Parameter.empty:
        raise ValueError(f"{name} has no default")
    return f"{default:g}" if isinstance(default, float) else str(default)


class Constructors(griffe.Extension):
    """Gives every public class without a written constructor the signature that it has at run time."""

    def on_class(self, *, cls: griffe.Class, **_) -> None:
        known = getattr(odeopt, cls.name, None)
        if known is None or "__init__" in cls.members or getattr(known, "__module__", "") != cls.module.path:
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
