"""Timing contestants against each other in one process, alternating."""

import statistics
import time
from collections.abc import Callable

import jax


def alternate(contestants: dict[str, Callable[[], object]], rounds: int = 9) -> dict[str, float]:
    """The median seconds of each contestant over `rounds` alternating calls after one that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        jax.block_until_ready(call())
    for _ in range(rounds):
        for name, call in contestants.items():
            tick = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - tick)
    return {name: statistics.median(values) for name, values in seconds.items()}


def median_ratio(first: Callable[[], object], second: Callable[[], object], rounds: int = 15) -> float:
    """The median over rounds of (seconds of the first) / (seconds of the second), each pair measured back to back."""
    jax.block_until_ready(first())
    jax.block_until_ready(second())
    ratios = []
    for index in range(rounds):
        order = (first, second) if index % 2 == 0 else (second, first)
        seconds = {}
        for call in order:
            tick = time.perf_counter()
            jax.block_until_ready(call())
            seconds[call] = time.perf_counter() - tick
        ratios.append(seconds[first] / seconds[second])
    return statistics.median(ratios)
