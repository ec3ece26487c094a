"""What all tests share. The library never switches double precision on; the tests do, here and nowhere else."""

import itertools
import os

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)


def pytest_configure(config):
    """Programs of the quick tests run for milliseconds and compile for seconds: they are compiled without most of the
    optimizations, in processes that tests start too. The slow set runs what users run."""
    if config.option.markexpr == "not slow":
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True, scope="module")
def tests_since_release():
    """Every compiled program holds memory maps, of which a process may have 65530: thousands of programs crash it."""
    yield itertools.count(1)
    jax.clear_caches()


@pytest.fixture(autouse=True)
def released(tests_since_release):
    """As there, for modules with many tests."""
    yield
    if next(tests_since_release) % 100 == 0:
        jax.clear_caches()


@pytest.fixture
def as_users_compile():
    """For what hangs on the last bits: without optimizations products and sums are not rounded as one operation."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def as_installed():
    """The type checker that watches the other tests would speak first, in its own words; users do not have it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
