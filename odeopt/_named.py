"""Flows, schemes and controllers named in text: `heavy-ball`, `HeavyBall(friction=0.5)`, `my_flow.py:MyFlow`."""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

_FROM_FILE = re.compile(r"(?P<file>.*\.py):(?P<name>\w+)\s*(?P<arguments>\(.*\))?", re.DOTALL)
_BY_NAME = re.compile(r"(?P<name>[\w-]+)\s*(?P<arguments>\(.*\))?", re.DOTALL)

# Examples in messages: a flow, a scheme and a controller that everybody has heard of.
WELL_KNOWN = ("HeavyBall", "Heun", "ConstantStep")

# Arrays of more numbers are told by their type and shape.
LARGE = 100


class NamingError(ValueError):
    """A text that names nothing usable; the message says what was given, what is expected and what to do."""


def build(text: str, kind: type, public: Mapping[str, Any]) -> Any:
    """The flow, scheme or controller that a text names.

    **Arguments:**

    - `text`: the name of a public class, in any case and with or without hyphens, or `FILE.py:CLASS` for a class of
        one's own; either with arguments in parentheses, which are read as literals and never evaluated. An argument may
        be a part of the library itself, as in `KineticRescaling(Leapfrog())`.
    - `kind`: the abstract class that it must be a subclass of.
    - `public`: the namespace that names are looked up in.

    **Raises:** `NamingError`.
    """
    text = text.strip()
    from_file = _FROM_FILE.fullmatch(text)
    named = from_file or _BY_NAME.fullmatch(text)
    if text.endswith(".py"):
        defined = _own_classes(_load(Path(text).resolve(), text), kind)
        raise NamingError(
            f"{text}: expected FILE.py:CLASS; the file defines the {_word(kind)}s: {', '.join(defined) or 'none'}."
        )
    if named is None:
        raise NamingError(
            f"{text!r} cannot be read; expected a name such as {_example(kind, public)}, a name with arguments such as "
            "HeavyBall(friction=0.5), or a class of your own such as my_flow.py:MyFlow."
        )
    positional, keywords = _arguments(text, named["arguments"], public)
    cls = (
        _class_in_file(from_file["file"], from_file["name"], kind) if from_file else _class(named["name"], kind, public)
    )
    return _made(text, cls, positional, keywords)


def _made(text: str, cls: type, positional: list, keywords: dict[str, Any]) -> Any:
    """An instance, or what its arguments lack."""
    try:
        inspect.signature(cls).bind(*positional, **keywords)
    except TypeError as error:
        parameters = inspect.signature(cls).parameters
        # Attributes without a type are constants of the class and no arguments.
        bare = [name for name in keywords if name in vars(cls) and name not in parameters]
        hint = f" In the class, write {bare[0]} with its type, as in `{bare[0]}: float = 1.0`." if bare else ""
        listed = ", ".join(parameters) or "none"
        raise NamingError(f"{text}: {error}. The arguments of {cls.__name__} are: {listed}.{hint}") from error
    try:
        return cls(*positional, **keywords)
    except Exception as error:
        # The library's own messages name the class and what is wrong; those of other classes may say anything.
        said = str(error) if str(error).startswith(cls.__name__) else f"{text}: {describe(error)}"
        if isinstance(error, dataclasses.FrozenInstanceError):
            said += ". Declare what __init__ sets as a field of the class, with its type, as in `friction: float`."
        raise NamingError(said) from error


def function_in_file(text: str, others: Sequence[str] = ()) -> Callable:
    """The function that `FILE.py:FUNCTION` names.

    **Arguments:** `others`: what the text could have been instead, for the message.

    **Raises:** `NamingError`.
    """
    named = _FROM_FILE.fullmatch(text.strip())
    if named is None or named["arguments"]:
        expected = f"{', '.join(others)}, or FILE.py:FUNCTION" if others else "FILE.py:FUNCTION"
        raise NamingError(f"{text!r} names no function; expected {expected}, such as my_model.py:build.")
    module = _load(Path(named["file"]).resolve(), named["file"])
    function = getattr(module, named["name"], None)
    if not callable(function):
        given = "does not exist" if function is None else "cannot be called"
        own = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        raise NamingError(
            f"{text}: {named['name']} {given}. The file defines the functions: {', '.join(own) or 'none'}. Name one of "
            "them."
        )
    return function


def available(kind: type, public: Mapping[str, Any]) -> dict[str, type]:
    """The concrete subclasses of `kind` in a namespace, by name."""
    return {
        name: value
        for name, value in public.items()
        if isinstance(value, type) and issubclass(value, kind) and not inspect.isabstract(value)
    }


def text_of(part: Any, public: Mapping[str, Any], given: Sequence[str] = ()) -> str:
    """The text that `build` makes a flow, scheme or controller of again, with every argument and all digits.

    A function or a large array, which no literal stands for, is left out where it is the default, and otherwise named.

    **Arguments:** `public`: as in `build`; `given`: texts that may name files with classes of one's own.
    """
    parameters = inspect.signature(type(part)).parameters
    arguments = {
        name: value
        for name, value in _stored_arguments(part, list(parameters)).items()
        if not (callable(value) and name in parameters and value is parameters[name].default)
    }
    listed = ", ".join(f"{name}={_literal(value, public)}" for name, value in arguments.items())
    return f"{_name_of(type(part), public, given)}({listed})"


def describe(error: BaseException, file: Path | None = None) -> str:
    """An error in one line, with its place in `file` where it passed through it."""
    text = f"{type(error).__name__}: {error}"
    if file is not None:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
        if frames:
            text += f" ({file.name}, line {frames[-1].lineno}, in {frames[-1].name})"
    return text


def file_of(text: str) -> Path | None:
    """The file that a text such as `my_flow.py:MyFlow` names, as its modules know it."""
    from_file = _FROM_FILE.fullmatch(text.strip())
    return Path(from_file["file"]).resolve() if from_file else None


def _name_of(cls: type, public: Mapping[str, Any], given: Sequence[str]) -> str:
    if public.get(cls.__name__) is not cls:
        for named in filter(None, (_FROM_FILE.fullmatch(text.strip()) for text in given)):
            if getattr(sys.modules.get(_module_name(named["file"])), cls.__name__, None) is cls:
                return f"{named['file']}:{cls.__name__}"
    return cls.__name__


def _stored_arguments(part: Any, parameters: list[str]) -> dict[str, Any]:
    """The arguments of a constructor, read from the fields that it has filled in."""
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    if set(parameters) <= set(values):
        return {name: values[name] for name in parameters}
    # A constructor may call an argument otherwise than its field; one that computes its fields is told by them.
    return dict(zip(parameters, values.values(), strict=True)) if len(parameters) == len(values) else values


def _literal(value: Any, public: Mapping[str, Any]) -> str:
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return _array_literal(value)
    if isinstance(value, float):
        return _finite(repr(value))
    if isinstance(value, list):
        return f"[{', '.join(_literal(item, public) for item in value)}]"
    if isinstance(value, tuple):
        return f"({', '.join(_literal(item, public) for item in value)}{',' * (len(value) == 1)})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return text_of(value, public)
    if callable(value):
        return f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', repr(value))}"
    return repr(value)


def _array_literal(array: Any) -> str:
    if array.size > LARGE or not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        return f"{array.dtype}{list(array.shape)}"
    numbers = np.asarray(array)
    # The shortest digits that give a number back in its own precision: of float32 they are fewer than of float64.
    return _finite(str(numbers) if numbers.ndim == 0 else repr(numbers.tolist()))


def _finite(number: str) -> str:
    """Python has no literal for infinity, but reads a number that is too large for float64 as infinity."""
    return number.replace("inf", "1e999")


def _class(name: str, kind: type, public: Mapping[str, Any]) -> type:
    choices = available(kind, public)
    found = {_plain(choice): value for choice, value in choices.items()}.get(_plain(name))
    if found is None:
        close = difflib.get_close_matches(_plain(name), [_plain(choice) for choice in choices], n=1)
        meant = next((f" Did you mean {choice}?" for choice in choices if close == [_plain(choice)]), "")
        raise NamingError(
            f"{name!r} is no {_word(kind)} of odeopt.{meant} Available are {', '.join(sorted(choices))}. Choose one of "
            "them, or name a class of your own as FILE.py:CLASS."
        )
    return found


def _class_in_file(file: str, name: str, kind: type) -> type:
    module = _load(Path(file).resolve(), file)
    cls = getattr(module, name, None)
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        own = _own_classes(module, kind)
        given = "does not exist" if cls is None else f"is no subclass of odeopt.{kind.__name__}"
        raise NamingError(
            f"{file}:{name}: {name} {given}. The file defines the {_word(kind)}s: {', '.join(own) or 'none'}. Name one "
            f"of them, or derive the class from odeopt.{kind.__name__}."
        )
    return cls


def _own_classes(module: ModuleType, kind: type) -> list[str]:
    return [key for key, value in available(kind, vars(module)).items() if value.__module__ == module.__name__]


def _load(path: Path, given: str) -> ModuleType:
    """The user's own file as a module; running it is what the user asked for."""
    if not path.is_file():
        raise NamingError(f"{given} does not exist; expected a Python file. Check the path.")
    name = _module_name(given)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    # Its neighbours can be imported, as from a file that Python is started with.
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise NamingError(f"{given} cannot be run: {describe(error, path)}. Mend the file and try again.") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _module_name(file: str) -> str:
    return f"odeopt_user_{Path(file).stem}"


def _arguments(text: str, arguments: str | None, public: Mapping[str, Any]) -> tuple[list, dict[str, Any]]:
    """Positional and keyword arguments: literals, and parts of the library."""
    if arguments is None:
        return [], {}
    try:
        call = ast.parse(f"f{arguments}", mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError("more than one pair of parentheses")
        if any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("** is not allowed")
        return _values(call, public)
    except NamingError:
        raise
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise NamingError(
            f"{text}: the arguments cannot be read; expected plain numbers, texts in quotes, True, False or None, as "
            "in HeavyBall(friction=0.5)."
        ) from error


def _values(call: ast.Call, public: Mapping[str, Any]) -> tuple[list, dict[str, Any]]:
    keywords = {str(keyword.arg): _value(keyword.value, public) for keyword in call.keywords}
    return [_value(argument, public) for argument in call.args], keywords


def _value(node: ast.expr, public: Mapping[str, Any]) -> Any:
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [_value(item, public) for item in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    cls = public.get(node.func.id) if isinstance(node.func, ast.Name) else None
    if not (isinstance(cls, type) and issubclass(cls, eqx.Module)):
        raise ValueError(f"{ast.unparse(node.func)} is no part of the library")
    return _made(ast.unparse(node), cls, *_values(node, public))


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _word(kind: type) -> str:
    return kind.__name__.removeprefix("Abstract").lower()


def _example(kind: type, public: Mapping[str, Any]) -> str:
    choices = available(kind, public)
    return next((name for name in WELL_KNOWN if name in choices), kind.__name__)
