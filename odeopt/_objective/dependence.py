"""Whether the result of a traced function depends on its arguments at all."""

from typing import Any

from jax.extend.core import Jaxpr, Literal


def depends_on_arguments(jaxpr: Jaxpr) -> bool:
    """Whether any operation leads from the arguments of a function to its results.

    Found from the outermost operations alone: where one that contains others mixes arguments and constants, the
    answer may be yes although it is no.
    """
    dependent = set(jaxpr.invars)

    def is_dependent(variable) -> bool:
        return not isinstance(variable, Literal) and variable in dependent

    for equation in jaxpr.eqns:
        if any(map(is_dependent, equation.invars)):
            dependent.update(equation.outvars)
    return any(map(is_dependent, jaxpr.outvars))


# What puts a number where others are, and leaves it as it is.
PLACEMENTS = ("reshard",)


def literal_result(jaxpr: Jaxpr) -> Any:
    """The number that a traced function returns if it stands in its program as such, or `None`."""
    (result,) = jaxpr.outvars
    made_by = {variable: equation for equation in jaxpr.eqns for variable in equation.outvars}
    while not isinstance(result, Literal):
        equation = made_by.get(result)
        if equation is None or equation.primitive.name not in PLACEMENTS:
            return None
        (result,) = equation.invars
    return result.val
