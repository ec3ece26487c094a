"""Nonlinear regression problems with certified solutions, as least-squares problems.

Source of the models, starts and certified values: NIST Statistical Reference Datasets, nonlinear regression. The
observations are those in the package sif2jax, whose problems are the same ones in another form.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import jax.numpy as jnp
import numpy as np

# Of the 27 problems one is left out: sif2jax has no observations of Thurber.


@dataclass(frozen=True, eq=False)
class NistProblem:
    """A model, its observations, and the parameters that fit them best.

    **Attributes:** `residual`: `residual(y, data)`, the model's values less the observed ones, shape (P,); `data`:
    `(x, observed)` in float64, samples along the first axis, so that `residual` is also one for a single sample;
    `starts`: the two published starting points, the farther one first; `certified`: the minimiser; `sum_of_squares`:
    the sum of squared residuals there, without a factor 1/2. Both are correct to the 11 digits that are given.
    """

    name: str
    residual: Callable
    data: tuple[np.ndarray, np.ndarray]
    starts: tuple[np.ndarray, np.ndarray]
    certified: np.ndarray
    sum_of_squares: float


def _bennett5(y, x):
    return y[0] * (y[1] + x) ** (-1 / y[2])


def _chwirut(y, x):
    return jnp.exp(-y[0] * x) / (y[1] + y[2] * x)


def _danwood(y, x):
    return y[0] * x ** y[1]


def _eckerle4(y, x):
    return y[0] / y[1] * jnp.exp(-0.5 * ((x - y[2]) / y[1]) ** 2)


def _enso(y, x):
    """A yearly cycle and two whose periods are fitted."""
    return y[0] + _wave(x, 12, y[1], y[2]) + _wave(x, y[3], y[4], y[5]) + _wave(x, y[6], y[7], y[8])


def _wave(x, period, cosine, sine):
    return cosine * jnp.cos(2 * jnp.pi * x / period) + sine * jnp.sin(2 * jnp.pi * x / period)


def _gauss(y, x):
    return y[0] * jnp.exp(-y[1] * x) + _peak(x, y[2], y[3], y[4]) + _peak(x, y[5], y[6], y[7])


def _peak(x, height, centre, width):
    return height * jnp.exp(-(((x - centre) / width) ** 2))


def _hahn1(y, x):
    return (y[0] + x * (y[1] + x * (y[2] + x * y[3]))) / (1 + x * (y[4] + x * (y[5] + x * y[6])))


def _kirby2(y, x):
    return (y[0] + x * (y[1] + x * y[2])) / (1 + x * (y[3] + x * y[4]))


def _lanczos(y, x):
    return y[0] * jnp.exp(-y[1] * x) + y[2] * jnp.exp(-y[3] * x) + y[4] * jnp.exp(-y[5] * x)


def _mgh09(y, x):
    return y[0] * (x**2 + x * y[1]) / (x**2 + x * y[2] + y[3])


def _mgh10(y, x):
    return y[0] * jnp.exp(y[1] / (x + y[2]))


def _mgh17(y, x):
    return y[0] + y[1] * jnp.exp(-x * y[3]) + y[2] * jnp.exp(-x * y[4])


def _misra1a(y, x):
    return y[0] * (1 - jnp.exp(-y[1] * x))


def _misra1b(y, x):
    return y[0] * (1 - (1 + y[1] * x / 2) ** -2)


def _misra1c(y, x):
    return y[0] * (1 - (1 + 2 * y[1] * x) ** -0.5)


def _misra1d(y, x):
    return y[0] * y[1] * x / (1 + y[1] * x)


def _nelson(y, x):
    """The logarithm of a breakdown voltage, from time and temperature."""
    return y[0] - y[1] * x[..., 0] * jnp.exp(-y[2] * x[..., 1])


def _rat42(y, x):
    return y[0] / (1 + jnp.exp(y[1] - y[2] * x))


def _rat43(y, x):
    return y[0] / (1 + jnp.exp(y[1] - y[2] * x)) ** (1 / y[3])


def _roszman1(y, x):
    return y[0] - y[1] * x - jnp.arctan(y[2] / (x - y[3])) / jnp.pi


def _columns(module: str, count: int) -> list[np.ndarray]:
    """The lists of `count` numbers in the source of a module of sif2jax, in their order.

    Read and not imported: some are local to a method, the others are float32 unless 64 bits are enabled first, and the
    import takes half a minute.
    """
    package = find_spec("sif2jax")
    if package is None:
        raise ModuleNotFoundError("The observations are those in sif2jax: install odeopt[benchmarks].")
    source = Path(package.submodule_search_locations[0], "cutest", f"{module}.py").read_text(encoding="utf-8")
    lists = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.List) and len(node.elts) == count]
    lists.sort(key=lambda node: node.lineno)
    return [np.array(ast.literal_eval(node), np.float64) for node in lists]


def _equations(name: str, count: int) -> list[np.ndarray]:
    # Most problems are in sif2jax twice, here with the observations of NIST. Among the minimisations Lanczos2 is
    # rounded to five decimals, and two thirds of the observations of ENSO are others.
    return _columns(f"_nonlinear_equations/{name}", count)


def _minimisation(name: str, count: int) -> list[np.ndarray]:
    return _columns(f"_unconstrained_minimisation/{name}", count)


def _numbered(name: str, count: int) -> list[np.ndarray]:
    """Observations at 1, 2, 3, ..."""
    return [np.arange(1.0, count + 1), *_equations(name, count)]


def _lanczos1_data() -> list[np.ndarray]:
    """NIST's observations are the values of a sum of exponentials rounded to 13 digits; sif2jax does not round them."""
    (x,) = _equations("lanczos1", 24)
    exact = 0.0951 * np.exp(-x) + 0.8607 * np.exp(-3 * x) + 1.5576 * np.exp(-5 * x)
    return [x, np.array([float(f"{value:.12e}") for value in exact])]


def _nelson_data() -> list[np.ndarray]:
    time, temperature, voltage = _equations("nelson", 128)
    return [np.column_stack([time, temperature]), np.log(voltage)]


# Of each problem the two starting points, the certified parameters and the certified sum of squares.
PUBLISHED = {
    # Lower level of difficulty, as NIST puts it.
    "Misra1a": ((500, 0.0001), (250, 0.0005), (238.94212918, 0.00055015643181), 0.12455138894),
    "Chwirut2": (
        (0.1, 0.01, 0.02),
        (0.15, 0.008, 0.01),
        (0.16657666537, 0.0051653291286, 0.012150007096),
        513.04802941,
    ),
    "Chwirut1": (
        (0.1, 0.01, 0.02),
        (0.15, 0.008, 0.01),
        (0.19027818370, 0.0061314004477, 0.010530908399),
        2384.4771393,
    ),
    "Lanczos3": (
        (1.2, 0.3, 5.6, 5.5, 6.5, 7.6),
        (0.5, 0.7, 3.6, 4.2, 4, 6.3),
        (0.086816414977, 0.95498101505, 0.84400777463, 2.9515951832, 1.5825685901, 4.9863565084),
        1.6117193594e-8,
    ),
    "Gauss1": (
        (97, 0.009, 100, 65, 20, 70, 178, 16.5),
        (94, 0.0105, 99, 63, 25, 71, 180, 20),
        (
            98.778210871,
            0.010497276517,
            100.48990633,
            67.481111276,
            23.129773360,
            71.994503004,
            178.99805021,
            18.389389025,
        ),
        1315.8222432,
    ),
    "Gauss2": (
        (96, 0.009, 103, 106, 18, 72, 151, 18),
        (98, 0.0105, 103, 105, 20, 73, 150, 20),
        (
            99.018328406,
            0.010994945399,
            101.88022528,
            107.03095519,
            23.578584029,
            72.045589471,
            153.27010194,
            19.525972636,
        ),
        1247.5282092,
    ),
    "DanWood": ((1, 5), (0.7, 4), (0.76886226176, 3.8604055871), 0.0043173084083),
    "Misra1b": ((500, 0.0001), (300, 0.0002), (337.99746163, 0.00039039091287), 0.075464681533),
    # Average level.
    "Kirby2": (
        (2, -0.1, 0.003, -0.001, 1e-5),
        (1.5, -0.15, 0.0025, -0.0015, 2e-5),
        (1.6745063063, -0.13927397867, 0.0025961181191, -0.0017241811870, 2.1664802578e-5),
        3.9050739624,
    ),
    "Hahn1": (
        (10, -1, 0.05, -1e-5, -0.05, 0.001, -1e-6),
        (1, -0.1, 0.005, -1e-6, -0.005, 0.0001, -1e-7),
        (
            1.0776351733,
            -0.12269296921,
            0.0040863750610,
            -1.4262662514e-6,
            -0.0057609940901,
            0.00024053735503,
            -1.2314450199e-7,
        ),
        1.5324382854,
    ),
    "Nelson": ((2, 0.0001, -0.01), (2.5, 5e-9, -0.05), (2.5906836021, 5.6177717026e-9, -0.057701013174), 3.7976833176),
    "MGH17": (
        (50, 150, -100, 1, 2),
        (0.5, 1.5, -1, 0.01, 0.02),
        (0.37541005211, 1.9358469127, -1.4646871366, 0.012867534640, 0.022122699662),
        5.4648946975e-5,
    ),
    "Lanczos1": (
        (1.2, 0.3, 5.6, 5.5, 6.5, 7.6),
        (0.5, 0.7, 3.6, 4.2, 4, 6.3),
        (0.095100000027, 1.0000000001, 0.86070000013, 3.0000000002, 1.5575999998, 5.0000000001),
        1.4307867721e-25,
    ),
    "Lanczos2": (
        (1.2, 0.3, 5.6, 5.5, 6.5, 7.6),
        (0.5, 0.7, 3.6, 4.2, 4, 6.3),
        (0.096251029939, 1.0057332849, 0.86424689056, 3.0078283915, 1.5529016879, 5.0028798100),
        2.2299428125e-11,
    ),
    "Gauss3": (
        (94.9, 0.009, 90.1, 113, 20, 73.8, 140, 20),
        (96, 0.0096, 80, 110, 25, 74, 139, 25),
        (
            98.940368970,
            0.010945879335,
            100.69553078,
            111.63619459,
            23.300500029,
            73.705031418,
            147.76164251,
            19.668221230,
        ),
        1244.4846360,
    ),
    "Misra1c": ((500, 0.0001), (600, 0.0002), (636.42725809, 0.00020813627256), 0.040966836971),
    "Misra1d": ((500, 0.0001), (450, 0.0003), (437.36970754, 0.00030227324449), 0.056419295283),
    "Roszman1": (
        (0.1, -1e-5, 1000, -100),
        (0.2, -5e-6, 1200, -150),
        (0.20196866396, -6.1953516256e-6, 1204.4556708, -181.34269537),
        0.00049484847331,
    ),
    "ENSO": (
        (11, 3, 0.5, 40, -0.7, -1.3, 25, -0.3, 1.4),
        (10, 3, 0.5, 44, -1.5, 0.5, 26, -0.1, 1.5),
        (
            10.510749193,
            3.0762128085,
            0.53280138227,
            44.311088700,
            -1.6231428586,
            0.52554493756,
            26.887614440,
            0.21232288488,
            1.4966870418,
        ),
        788.53978668,
    ),
    # Higher level.
    "MGH09": (
        (25, 39, 41.5, 39),
        (0.25, 0.39, 0.415, 0.39),
        (0.19280693458, 0.19128232873, 0.12305650693, 0.13606233068),
        0.00030750560385,
    ),
    "BoxBOD": ((1, 1), (100, 0.75), (213.80940889, 0.54723748542), 1168.0088766),
    "Rat42": ((100, 1, 0.1), (75, 2.5, 0.07), (72.462237576, 2.6180768402, 0.067359200066), 8.0565229338),
    "MGH10": ((2, 400000, 25000), (0.02, 4000, 250), (0.0056096364710, 6181.3463463, 345.22363462), 87.945855171),
    "Eckerle4": ((1, 10, 500), (1.5, 5, 450), (1.5543827178, 4.0888321754, 451.54121844), 0.0014635887487),
    "Rat43": (
        (100, 10, 1, 1),
        (700, 5, 0.75, 1.3),
        (699.64151270, 5.2771253025, 0.75962938329, 1.2792483859),
        8786.4049080,
    ),
    "Bennett5": ((-2000, 50, 0.8), (-1500, 45, 0.85), (-2523.5058043, 46.736564644, 0.93218483193), 0.00052404744073),
}


@cache
def problems() -> dict[str, NistProblem]:
    """The problems by name, in the order of `PUBLISHED`."""
    misra1 = _equations("_misra_base", 14)
    sources = {
        "Misra1a": (_misra1a, misra1),
        "Chwirut2": (_chwirut, _minimisation("chwirut2ls", 54)),
        "Chwirut1": (_chwirut, _minimisation("chwirut1ls", 214)),
        "Lanczos3": (_lanczos, _equations("lanczos3", 24)),
        "Gauss1": (_gauss, _numbered("gauss1", 250)),
        "Gauss2": (_gauss, _numbered("gauss2", 250)),
        "DanWood": (_danwood, _equations("daniwood", 6)),
        "Misra1b": (_misra1b, misra1),
        "Kirby2": (_kirby2, _equations("kirby2", 151)),
        "Hahn1": (_hahn1, _minimisation("hahn1ls", 236)),
        "Nelson": (_nelson, _nelson_data()),
        "MGH17": (_mgh17, _equations("mgh17", 33)),
        "Lanczos1": (_lanczos, _lanczos1_data()),
        "Lanczos2": (_lanczos, _equations("lanczos2", 24)),
        "Gauss3": (_gauss, _numbered("gauss3", 250)),
        "Misra1c": (_misra1c, misra1),
        "Misra1d": (_misra1d, misra1),
        "Roszman1": (_roszman1, _minimisation("roszman1ls", 25)),
        "ENSO": (_enso, _numbered("enso", 168)),
        "MGH09": (_mgh09, _equations("mgh09", 11)),
        "BoxBOD": (_misra1a, _equations("boxbod", 6)),
        "Rat42": (_rat42, _equations("rat42", 9)),
        "MGH10": (_mgh10, _equations("mgh10", 16)),
        "Eckerle4": (_eckerle4, _equations("eckerle4", 35)),
        "Rat43": (_rat43, _equations("rat43", 15)),
        "Bennett5": (_bennett5, _equations("bennett5", 154)),
    }
    return {name: _problem(name, *sources[name], *published) for name, published in PUBLISHED.items()}


def _problem(name, model, data, start_1, start_2, certified, sum_of_squares) -> NistProblem:
    def residual(y, data):
        x, observed = data
        return model(y, x) - observed

    start_1, start_2, certified = (np.array(values, np.float64) for values in (start_1, start_2, certified))
    return NistProblem(name, residual, tuple(data), (start_1, start_2), certified, sum_of_squares)
