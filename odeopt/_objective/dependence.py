"""Whether the result of a traced function depends on its arguments at all."""

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
