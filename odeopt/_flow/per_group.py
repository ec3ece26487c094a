r"""Different flows on different parameters.

Flow \(k\) acts on the parameters \(x_k\) with its own memory \(m_k\), and its energy \(V_k = c_k f + K_k\) has a
constant weight \(c_k\) of the objective. Then

\[ V = f + \sum_k \frac{K_k}{c_k}, \qquad V' = \sum_k \frac{V_k'}{c_k}, \]

with \(V_k'\) the rate of flow \(k\) as if the other parameters stood still: the objective is counted once, and
\(V' \le 0\) if it holds for each.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, PyTree

from .._objective.oracle import Oracle
from .base import AbstractFlow, State
from .combined_oracle import PartOracle


class PerGroup(AbstractFlow):
    r"""Different flows on different parts of a model.

    \[ V = f + \sum_k \frac{V_k - c_k f}{c_k}, \qquad c_k = \partial V_k / \partial f \text{ constant} \]

    A parameter belongs to the first group whose pattern is found in its path, as `jax.tree_util.keystr` writes it
    (`.layers[0].weight` in an Equinox MLP).

    **Arguments:** `groups`: pairs `(pattern, flow)`: a regular expression (`re.search`), and the flow of the parameters
    with such a path; `None` in place of a flow: they stay as they are (frozen).

    The position is that of all parameters; the memory a tuple with that of each flow. Every flow keeps its own clock
    rate: all groups share one step size.
    **Raises:** `ValueError` for a pattern that is no regular expression, for a flow whose energy does not contain the
    objective (`AEGD`, `PrimalDual`), or, when a run starts, if a parameter is in no group, a pattern is found in no
    path, or all are frozen; `TypeError` if `groups` are no pairs or a flow is none.

    !!! example

        ```python
        flow = odeopt.PerGroup([("bias", odeopt.HeavyBall(friction=1.0)), ("weight", odeopt.Adam())])
        model = eqx.nn.Linear(2, 1, key=jax.random.key(0))
        loss = lambda model, _: jnp.sum((model(jnp.ones(2)) - 3.0) ** 2)
        solution = odeopt.minimise(loss, odeopt.Solver(flow), model)
        ```
    """

    patterns: tuple[str, ...] = eqx.field(static=True)
    flows: tuple[AbstractFlow | None, ...]

    def __init__(self, groups: Sequence[tuple[str, AbstractFlow | None]]):
        if isinstance(groups, Mapping) or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in groups):
            raise TypeError(
                f"PerGroup: expected pairs [(pattern, flow), ...], in the order of precedence; got {groups!r}."
            )
        for pattern, flow in groups:
            if not (flow is None or isinstance(flow, AbstractFlow)):
                raise TypeError(f"PerGroup: the group {pattern!r} has {flow!r}; expected a flow, or None to freeze it.")
            if flow is not None and not flow.weighs_objective:
                raise ValueError(
                    f"PerGroup: the energy of {type(flow).__name__} (group {pattern!r}) does not contain the "
                    "objective, which all groups have to share. Use it for the whole model, or another flow here."
                )
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"PerGroup: {pattern!r} is no regular expression: {error}.") from error
        if not any(flow is not None for _, flow in groups):
            raise ValueError("PerGroup: no group has a flow, so that nothing would be trained.")
        self.patterns = tuple(pattern for pattern, _ in groups)
        self.flows = tuple(flow for _, flow in groups)

    @property
    def certificate(self) -> str:
        """The weakest of all flows."""
        claims = {flow.certificate for flow in self.flows if flow is not None}
        return next(claim for claim in ("balance_law", "convex_only", "lyapunov") if claim in claims)

    @property
    def judged_by(self) -> str:
        return "energy" if any(f is not None and f.judged_by == "energy" for f in self.flows) else "loss"

    def init(self, params: PyTree) -> State:
        self._check(params)
        memories: list[PyTree] = [None] * len(self.flows)
        for k, flow, part in self._groups(params):
            memories[k] = flow.init(part).memory
        return State(params, tuple(memories))

    def calibrate(self, state: State, oracle: Oracle) -> "PerGroup":
        flows = list(self.flows)
        for k, flow, part, seen in self._parts(state, oracle):
            flows[k] = flow.calibrate(part, seen)
        return PerGroup(list(zip(self.patterns, flows, strict=True)))

    def vector_field(self, t: Array, state: State, oracle: Oracle) -> State:
        position = jax.tree.map(jnp.zeros_like, state.position)
        memories = list(jax.tree.map(jnp.zeros_like, state.memory))
        for k, flow, part, seen in self._parts(state, oracle):
            field = flow.vector_field(t, part, seen)
            position, memories[k] = eqx.combine(field.position, position), field.memory
        return State(position, tuple(memories))

    def energy(self, t: Array, state: State, oracle: Oracle) -> Array:
        total = oracle.value
        for _, flow, part, seen in self._parts(state, oracle):
            rest, weight = _split(flow, t, part, seen)
            total = total + rest / weight
        return total

    def dissipation(self, t: Array, state: State, oracle: Oracle) -> Array:
        rates = []
        for _, flow, part, seen in self._parts(state, oracle):
            rates.append(flow.dissipation(t, part, seen) / _split(flow, t, part, seen)[1])
        return jnp.sum(jnp.stack(rates))

    def jump(self, t: Array, before: State, after: State, oracle_before: Oracle, oracle_after: Oracle) -> PyTree:
        memories = list(after.memory)
        old = {k: (part, seen) for k, _, part, seen in self._parts(before, oracle_before)}
        for k, flow, part, seen in self._parts(after, oracle_after):
            memories[k] = flow.jump(t, old[k][0], part, old[k][1], seen)
        return tuple(memories)

    def kinetic_energy(self, t: Array, state: State) -> Array:
        groups = self._groups(state.position)
        return jnp.sum(jnp.stack([flow.kinetic_energy(t, State(x, state.memory[k])) for k, flow, x in groups]))

    def decay(self, t: Array, state: State) -> PyTree:
        rates: list[PyTree] = [None] * len(self.flows)
        for k, flow, part in self._groups(state.position):
            rates[k] = flow.decay(t, State(part, state.memory[k]))
        return tuple(rates)

    def stationarity(self, t: Array, state: State, oracle: Oracle, norm=optx.two_norm) -> Array:
        each = [flow.stationarity(t, part, seen, norm) for _, flow, part, seen in self._parts(state, oracle)]
        return norm(jnp.stack(each))

    def unit_of_time(self, state: State, oracle: Oracle) -> Array:
        each = [flow.unit_of_time(part, seen) for _, flow, part, seen in self._parts(state, oracle)]
        return jnp.min(jnp.stack(each))

    def recommended(self):
        from .._scheme.chebyshev import RKC1
        from .._scheme.exponential import ExponentialEuler

        schemes = [flow.recommended()[0] for flow in self.flows if flow is not None]
        stiff = all(isinstance(scheme, RKC1) for scheme in schemes)
        return RKC1() if stiff else ExponentialEuler(), super().recommended()[1]

    def declares(self, method: str) -> bool:
        return super().declares(method) and any(flow is not None and flow.declares(method) for flow in self.flows)

    def _groups(self, position: PyTree) -> Iterator[tuple[int, AbstractFlow, PyTree]]:
        """Index, flow and parameters of every group that has both."""
        for k, flow in enumerate(self.flows):
            part = self._select(k, position)
            if flow is not None and jax.tree.leaves(part):
                yield k, flow, part

    def _parts(self, state: State, oracle: Oracle) -> Iterator[tuple[int, AbstractFlow, State, Oracle]]:
        """Index, flow, state and oracle of every group that has parameters and a flow."""
        for k, flow, part in self._groups(state.position):
            rest = self._select(k, state.position, others=True)
            seen = PartOracle(oracle, lambda tree, k=k: self._select(k, tree), rest)
            yield k, flow, State(part, state.memory[k]), seen

    def _select(self, group: int, tree: PyTree, others: bool = False) -> PyTree:
        """The leaves of a group, `None` in place of the others; or the reverse."""

        def leaf(path, value):
            return value if (self._group_of(path) == group) != others else None

        return jax.tree_util.tree_map_with_path(leaf, tree)

    def _group_of(self, path) -> int | None:
        text = jax.tree_util.keystr(path)
        return next((k for k, pattern in enumerate(self.patterns) if re.search(pattern, text)), None)

    def _check(self, params: PyTree) -> None:
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for path in paths:
            if self._group_of(path) is None:
                raise ValueError(
                    f"PerGroup: the parameter {jax.tree_util.keystr(path) or '(the only one)'} is in none of the "
                    f"groups {list(self.patterns)}. Add a group for it, such as ('.*', odeopt.Adam()), or "
                    "('.*', None) to freeze what is left."
                )
        if all(self.flows[k] is None for k in map(self._group_of, paths) if k is not None):
            raise ValueError("PerGroup: all parameters are in frozen groups, so that nothing would be trained.")
        texts = [jax.tree_util.keystr(path) for path in paths]
        for pattern in self.patterns:
            if not any(re.search(pattern, text) for text in texts):
                raise ValueError(f"PerGroup: the pattern {pattern!r} is found in no path of a parameter: {texts}.")


def _split(flow: AbstractFlow, t: Array, state: State, oracle: Oracle) -> tuple[Array, Array]:
    r"""\(K\) and \(c\) of \(V = c f + K\)."""
    # A closed form of the weight is a constant, which the compiler finds.
    nothing = jnp.zeros_like(oracle.value)
    rest, weight = jax.value_and_grad(lambda value: flow.energy(t, state, oracle.with_value(value)))(nothing)
    return rest, jnp.where(weight == 0, 1.0, weight)
