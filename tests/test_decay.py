"""Laws of decay, against closed forms and the theory of Lojasiewicz's inequality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt

L = 3.0
T = np.linspace(0.0, 8.0, 801)
END = 5.0

# Law, times, V, and the number that is to be found.
EXACT = {
    "exponential": (T, 2.0 * np.exp(-1.7 * T), 1.7),
    # The gradient flow of x^4 from x = 1: V = (1 + 8 t)^-2.
    "polynomial": (25 * T, (1 + 8 * 25 * T) ** -2.0, 2.0),
    "finite time": (np.linspace(0, END, 801)[:-1], 0.4 * (END - np.linspace(0, END, 801)[:-1]) ** 3, 3.0),
}


class PGradient(odeopt.AbstractFlow):
    """x' = -g |g|^(-(p-2)/(p-1)); V' = -|g|^(p/(p-1)) reaches a strongly convex minimum in finite time for p > 2."""

    p: float = 4.0

    def init(self, params):
        return odeopt.State(params)

    def vector_field(self, t, state, oracle):
        norm = jnp.sqrt(jnp.sum(oracle.gradient**2))
        power = jnp.where(norm > 0, norm, 1.0) ** (-(self.p - 2) / (self.p - 1))
        return odeopt.State(-power * oracle.gradient)

    def energy(self, t, state, oracle):
        return oracle.value

    def predicted_decay(self, lojasiewicz_exponent, constant):
        power = self.p / (self.p - 1)
        return odeopt.DecayBound(power * lojasiewicz_exponent, constant**power)


def quadratic(y, _):
    return 0.5 * L * jnp.sum(y**2)


def quartic(y, _):
    return jnp.sum(y**4)


def run(fn, flow, controller, **options):
    stop = odeopt.Stop(gradient_norm=1e-8)
    solver = odeopt.Solver(flow, odeopt.Euler(), controller)
    return odeopt.minimise(fn, solver, jnp.ones(1), stop=stop, throw=False, **options).history


# Steps that keep all but a hundredth of the dissipation follow the flow to about as much.
FAITHFUL = odeopt.LyapunovControl(decrease=0.99)


@pytest.mark.parametrize("law", EXACT)
def test_the_law_and_its_number_are_found_on_exact_data(law):
    t, energy, value = EXACT[law]
    found = odeopt.decay_rate((t, energy), minimum=0.0)
    assert found.law == law
    assert found.value == pytest.approx(value, rel=1e-6)
    assert found.uncertainty < 1e-6


@pytest.mark.parametrize("law", EXACT)
@pytest.mark.parametrize("limit", [-20.0, 0.0, 1e3])
def test_they_are_found_too_where_the_minimum_is_not_known(law, limit):
    t, energy, value = EXACT[law]
    found = odeopt.decay_rate((t, energy + limit))
    assert found.law == law
    assert found.value == pytest.approx(value, rel=0.01)
    assert found.limit == pytest.approx(limit, abs=1e-6 * np.ptp(energy))


def test_a_scale_of_energy_and_time_changes_nothing_but_the_rate():
    t, energy, value = EXACT["exponential"]
    assert odeopt.decay_rate((1e6 * t, 1e-9 * energy), minimum=0.0).value == pytest.approx(1e-6 * value, rel=1e-6)
    t, energy, value = EXACT["polynomial"]
    assert odeopt.decay_rate((1e6 * t, 1e-9 * energy), minimum=0.0).value == pytest.approx(value, rel=1e-6)


def test_noise_is_covered_by_the_uncertainty():
    t, energy, value = EXACT["exponential"]
    misses = []
    for seed in range(40):
        noise = np.exp(0.02 * np.random.default_rng(seed).standard_normal(len(t)))
        found = odeopt.decay_rate((t, energy * noise), minimum=0.0)
        assert found.law == "exponential"
        misses.append(abs(found.value - value) / found.uncertainty)
    # A jackknife of five blocks is Student's t with four degrees of freedom: half of the misses lie within 0.74.
    assert 0.3 < np.median(misses) < 2.0


@pytest.mark.parametrize("controller", [FAITHFUL, odeopt.ConstantStep(0.005 / L)], ids=["controlled", "constant"])
def test_gradient_flow_of_a_quadratic_decays_exponentially_at_twice_the_curvature(controller):
    found = odeopt.decay_rate(run(quadratic, odeopt.GradientFlow(), controller), minimum=0.0)
    assert found.law == "exponential"
    # Euler's own rate at h L = 0.01 is -2 log(1 - 0.01) / 0.01 = 2.01.
    assert found.value == pytest.approx(2 * L, rel=0.01)
    assert found.lojasiewicz_exponent == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("controller", [FAITHFUL, odeopt.ConstantStep(0.01)], ids=["controlled", "constant"])
@pytest.mark.parametrize("minimum", [0.0, None], ids=["minimum given", "minimum estimated"])
def test_gradient_flow_of_a_quartic_decays_like_the_inverse_square_of_time(controller, minimum):
    found = odeopt.decay_rate(run(quartic, odeopt.GradientFlow(), controller), minimum=minimum)
    assert found.law == "polynomial"
    assert found.value == pytest.approx(2.0, abs=0.1)
    assert found.lojasiewicz_exponent == pytest.approx(0.75, abs=0.02)
    assert found.fit.shift == pytest.approx(1 / 8, abs=0.02) or minimum is None


def test_the_p_gradient_flow_of_a_quadratic_arrives_in_finite_time():
    flow = PGradient()
    history = run(quadratic, flow, FAITHFUL)
    found = odeopt.decay_rate(history, minimum=0.0, flow=flow)
    assert found.law == "finite time"
    assert found.value == pytest.approx(3.0, abs=0.1)  # q = 2 (p - 1) / (p - 2)
    # y' = -(L y)^(1/3) arrives from y = 1 at 3/2 L^(-1/3).
    assert found.fit.shift == pytest.approx(1.5 * L ** (-1 / 3), rel=0.02)
    assert found.lojasiewicz_exponent == pytest.approx(0.5, abs=0.02)


def test_an_oscillating_decay_is_exponential_at_the_rate_of_its_envelope():
    friction, t = 0.3, np.linspace(0, 80, 4001)
    omega = np.sqrt(L - friction**2 / 4)
    x = np.exp(-friction * t / 2) * (np.cos(omega * t) + friction / (2 * omega) * np.sin(omega * t))
    v = -L / omega * np.exp(-friction * t / 2) * np.sin(omega * t)
    found = odeopt.decay_rate((t, 0.5 * L * x**2 + 0.5 * v**2), minimum=0.0)
    assert found.law == "exponential"
    assert found.value == pytest.approx(friction, rel=0.01)


def test_a_transient_is_left_out():
    t = np.linspace(0, 20, 2001)
    found = odeopt.decay_rate((t, np.exp(-0.5 * t) + 10 * np.exp(-8 * t)), minimum=0.0)
    assert found.law == "exponential"
    assert found.value == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("fn", "exponent", "constant"), [(quadratic, 0.5, np.sqrt(2 * L)), (quartic, 0.75, 4.0)], ids=["x^2", "x^4"]
)
def test_the_decay_of_gradient_flow_is_the_one_that_theory_predicts(fn, exponent, constant):
    found = odeopt.decay_rate(
        run(fn, odeopt.GradientFlow(), FAITHFUL),
        minimum=0.0,
        flow=odeopt.GradientFlow(),
        lojasiewicz_exponent=exponent,
        lojasiewicz_constant=constant,
    )
    assert found.predicted is not None
    assert found.order == pytest.approx(found.predicted.order, abs=0.02)
    assert found.passed


def test_a_decay_that_is_slower_than_theory_says_is_reported():
    history = run(quadratic, odeopt.GradientFlow(), FAITHFUL)
    # Twice the curvature that the objective has.
    slow = odeopt.decay_rate(history, minimum=0.0, lojasiewicz_exponent=0.5, lojasiewicz_constant=np.sqrt(4 * L))
    assert not slow.passed
    assert "FAIL" in str(slow)
    t, energy, _ = EXACT["polynomial"]
    assert not odeopt.decay_rate((t, energy), minimum=0.0, lojasiewicz_exponent=0.5).passed


def test_a_flow_without_theory_gets_no_prediction():
    t, energy, _ = EXACT["exponential"]
    found = odeopt.decay_rate((t, energy), minimum=0.0, flow=odeopt.HeavyBall(friction=1.0), lojasiewicz_exponent=0.5)
    assert found.predicted is None
    assert found.lojasiewicz_exponent is None
    assert found.checks == ()


def test_an_energy_that_follows_none_of_the_laws_is_noted():
    t = np.linspace(0, 100, 10001)
    # ln V falls in stairs of height 8 pi, four of them: no smooth law of three numbers comes closer than e**0.5.
    stairs = odeopt.decay_rate((t, np.exp(-(t + 4 * np.sin(t / 4)))), minimum=0.0)
    assert stairs.fit.residual > 0.5
    assert any("none of them" in check.message for check in stairs.checks)


def test_histories_are_taken_trimmed_and_padded_and_in_single_precision():
    padded = run(quadratic, odeopt.GradientFlow(), FAITHFUL, max_steps=5000)
    assert np.isnan(padded.t[-1])
    found = [odeopt.decay_rate(history, minimum=0.0).value for history in (padded, padded.trimmed())]
    assert found[0] == found[1]
    single = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), padded.trimmed())
    assert odeopt.decay_rate(single, minimum=0.0).value == pytest.approx(found[0], rel=1e-3)


@pytest.mark.parametrize(
    ("history", "options", "words"),
    [
        ((T, np.exp(-T)), {"minimum": 0.5}, "below its own infimum"),
        ((T[:5], np.exp(-T[:5])), {"minimum": 0.0}, "8 are needed"),
        ((T, np.ones_like(T)), {}, "does not fall"),
        ((T[::-1], np.exp(-T)), {}, "times must increase"),
        ((T, np.exp(-T)[:5]), {}, "vectors of one length"),
    ],
)
def test_data_that_cannot_be_used_are_named(history, options, words):
    with pytest.raises(ValueError, match=words):
        odeopt.decay_rate(history, **options)


@pytest.mark.parametrize("law", EXACT)
def test_the_picture_draws_itself_on_axes_of_its_own_and_on_given_ones(law):
    from matplotlib.figure import Figure

    t, energy, _ = EXACT[law]
    found = odeopt.decay_rate((t, energy), minimum=0.0)
    found.plot().canvas.draw()
    given = Figure().subplots()
    assert found.plot(axes=given) is given.get_figure()
