"""What all tests share. The library never switches double precision on; the tests do, here and nowhere else."""

import itertools
import os
import subprocess
import sys

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)
# XLA's older generator of loops compiles three times as fast as its newer one.
FAST_COMPILER = "--xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    """Programs of the quick tests run for milliseconds and compile for seconds: they are compiled without most of the
    optimizations, in processes that tests start too. All others run what users run."""
    if config.option.markexpr == "not slow and not exact":
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        jax.config.update("jax_disable_most_optimizations", True)
        is_worker = hasattr(config, "workerinput")  # workers have the flags of the process that started them
        if not is_worker and _is_known(FAST_COMPILER):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILER}"


def _is_known(flag: str) -> bool:
    """XLA ends the process where it meets a flag that it does not know."""
    environment = os.environ | {"XLA_FLAGS": flag}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


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
