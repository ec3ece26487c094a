"""What does not go with mini-batches, found before anything is computed."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._stop import Stop
from .examples import Examples
from .rag import RAG
from .settings import EnergyTournament

# Criteria that a run on mini-batches cannot judge: it never knows the gradient of the whole loss.
UNKNOWN = ("gradient_norm", "relative_gradient_norm", "loss_change")


def check_settings(settings: EnergyTournament | RAG, stop: Stop | None, history: str | None, count: int) -> None:
    """**Raises:** `ValueError` for what cannot be had on mini-batches of `count` examples."""
    size = settings.batch_of(count)
    if not 1 <= size <= count:
        wanted = f"batches={settings.batches}" if isinstance(settings, RAG) else f"batch={settings.batch}"
        raise ValueError(
            f"{type(settings).__name__}({wanted}): the data hold {count} examples; expected at most as many in a batch "
            "and at least one. For all examples at every step use an odeopt.Solver."
        )
    unknown = UNKNOWN[1:] if isinstance(settings, RAG) else UNKNOWN
    given = [name for name in unknown if stop is not None and getattr(stop, name) is not None]
    if given:
        raise ValueError(
            f"Stop({given[0]}=...): a run on mini-batches does not know the gradient of the whole loss. Use max_steps, "
            "time_limit, Stop(target_loss=...) or Stop(max_evaluations=...) (an epoch of gradients costs 3)."
        )
    if history == "states":
        raise ValueError("history='states': windows of mini-batches keep 'scalars' or None.")


def check_loss(loss: Callable, model: PyTree, examples: Examples, settings: EnergyTournament | RAG) -> None:
    """**Raises:** `TypeError` or `ValueError` for a loss that does not return a mean, or takes other arguments."""
    if not callable(loss):
        raise TypeError(
            f"loss must be a function loss(model, batch) -> scalar of the batch; got {type(loss).__name__}. An "
            "objective evaluates all examples at every step, and goes with an odeopt.Solver."
        )
    batch = examples.like(settings.batch_of(examples.count))
    arguments = (model, batch, jax.random.key(0)) if settings.keyed else (model, batch)
    try:
        value = eqx.filter_eval_shape(loss, *arguments)
    except TypeError as error:
        if "positional argument" not in str(error):
            raise
        called = "loss(model, batch, key)" if settings.keyed else "loss(model, batch)"
        raise TypeError(
            f"{error}. The loss is called as {called}; with EnergyTournament(keyed=True) it gets a random key, for "
            "dropout."
        ) from error
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"loss(model, batch) must return the mean over the batch, a floating-point scalar; it returned {value}."
        )
