"""Races of pretended kernels, whose times are known; the clock is theirs."""

from __future__ import annotations

import random

import pytest

from schedules import race as races
from schedules.race import batch, interval, longest, race


class Machine:
    """A clock, and kernels that move it on."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.batches: list[tuple[str, float]] = []

    def kernel(self, name: str, seconds: float, *, busy: float = 0.0, overhead: float = 10e-6):
        """A run takes `seconds`; a part `busy` of batches waits for others, up to 10 ms more."""

        def run(count: int) -> float:
            took = overhead + count * seconds * self.random.uniform(0.98, 1.02)
            if self.random.random() < busy:
                took += self.random.uniform(1e-3, 10e-3)
            self.now += took
            self.batches.append((name, took))
            return took / count

        return run

    def race(self, *kernels, most_s=4.0):
        *ours, default = kernels
        return race(ours, default, most_s=most_s, clock=lambda: self.now)


def test_a_gain_and_what_it_lies_between():
    machine = Machine()
    fast, slow, default = (machine.kernel(n, s) for n, s in (("a", 4e-6), ("b", 6e-6), ("d", 5e-6)))
    quick, behind = machine.race(fast, slow, default)
    assert quick["gain"] == pytest.approx(1.25, rel=0.01)
    assert quick["low"] < quick["gain"] < quick["high"] < 1.03 * quick["low"]
    assert quick["seconds"] == pytest.approx(4e-6, rel=0.05)
    assert quick["default"] == pytest.approx(5e-6, rel=0.05)
    assert behind["high"] < 1


def test_pairs_run_by_turns_first_and_second():
    machine = Machine()
    ours, default = machine.kernel("a", 5e-6), machine.kernel("d", 5e-6)
    (found,) = machine.race(ours, default)
    last = [name for name, _ in machine.batches[-2 * int(found["pairs"]) :]]
    assert last[:8] == ["a", "d", "d", "a", "a", "d", "d", "a"]


@pytest.mark.parametrize("busy", [0.3, 0.6])
def test_a_kernel_against_itself_on_a_busy_machine_is_no_gain(busy):
    """Of 200 races a per cent may say otherwise; each ends in its time."""
    sure = 0
    for seed in range(200):
        machine = Machine(seed)
        ours, default = (machine.kernel(n, 4e-6, busy=busy) for n in "ad")
        (found,) = machine.race(ours, default, most_s=1.0)
        sure += found["low"] > 1 or found["high"] < 1
        assert machine.now < 3
    assert sure <= 8  # 99 of 100 with several looks at each


def test_a_real_gain_is_found_on_a_busy_machine():
    machine = Machine(1)
    ours, default = (machine.kernel(n, s, busy=0.3) for n, s in (("a", 4e-6), ("d", 5e-6)))
    (found,) = machine.race(ours, default)
    assert 1.15 < found["low"] <= found["gain"] <= found["high"] < 1.35


def test_batches_are_long_against_what_they_cost():
    machine = Machine()
    assert batch(machine.kernel("a", 4e-6, overhead=0)) == pytest.approx(125, rel=0.1)
    assert batch(machine.kernel("a", 4e-6, overhead=100e-6)) * 4e-6 > 20 * 100e-6
    assert batch(machine.kernel("a", 1e-9)) == races._MOST_RUNS
    assert batch(machine.kernel("a", 0.05)) == 1
    # One look at a busy moment says nothing.
    assert batch(machine.kernel("a", 4e-6, busy=0.7)) == pytest.approx(125, rel=0.5)


def test_batches_grow_where_the_first_looks_were_disturbed(monkeypatch):
    monkeypatch.setattr(races, "batch", lambda run: 2)
    machine = Machine()
    (found,) = machine.race(machine.kernel("a", 4e-6), machine.kernel("d", 5e-6))
    assert max(took for _, took in machine.batches) > 0.4e-3
    assert found["gain"] == pytest.approx(1.25, rel=0.02)


def test_slow_kernels_run_eight_pairs():
    machine = Machine()
    ours, default = machine.kernel("a", 2.0), machine.kernel("d", 2.5)
    (found,) = machine.race(ours, default, most_s=1.0)
    assert found["pairs"] == 8 and found["gain"] == pytest.approx(1.25, rel=0.1)


def test_the_interval_of_a_median():
    assert interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    # Binomial(100, 1/2) is below 37 or above 63 in less than a per cent of all cases.
    assert interval([float(n) for n in range(1, 101)]) == (37.0, 64.0)


def test_it_ends_within_the_limit_of_a_trial():
    assert longest(3, 30.0) == 12.0 and longest(3, 2.0) == 1.0
