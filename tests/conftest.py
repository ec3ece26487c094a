"""What all tests share. The library never switches double precision on; the tests do, here and nowhere else."""

import itertools

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)


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
def as_installed():
    """The type checker that watches the other tests would speak first, in its own words; users do not have it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
