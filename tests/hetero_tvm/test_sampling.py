"""Choosing tokens, against a plain reference that sorts everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetero_tvm.errors import BadInput, DeviceFailure
from hetero_tvm.sampling import Sampler, Sampling


def _probabilities(logits, tokens, sampling) -> np.ndarray:
    """The distribution, by sorting, in the order that the module states."""
    values = logits.astype(np.float64).copy()
    for token in set(tokens):
        factor = sampling.repetition_penalty
        values[token] = values[token] * factor if values[token] < 0 else values[token] / factor
    powers = np.exp((values - values.max()) / sampling.temperature)
    order = np.argsort(-powers, kind="stable")
    if sampling.top_k:
        powers[order[sampling.top_k :]] = 0
    powers /= powers.sum()
    if sampling.top_p < 1:
        before = np.concatenate([[0], np.cumsum(powers[order])[:-1]])
        powers[order[before >= sampling.top_p * powers.sum()]] = 0
    powers[powers < sampling.min_p * powers.max()] = 0
    return powers / powers.sum()


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(2, 300),
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 1000]),
    top_p=st.sampled_from([1.0, 0.9, 0.4, 0.01]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
)
def test_frequencies_are_those_of_the_definition(size, seed, **settings_):
    rng = np.random.default_rng(seed)
    logits = (3 * rng.standard_normal(size)).astype(np.float32)
    tokens = list(rng.integers(0, size, 5))
    sampling = Sampling(seed=seed, **settings_)
    sampler = Sampler(sampling)
    draws = 2000
    counts = np.bincount([sampler(logits, tokens) for _ in range(draws)], minlength=size)
    wanted = _probabilities(logits, tokens, sampling)
    assert not counts[wanted == 0].any()
    deviation = np.sqrt(wanted * (1 - wanted) / draws)
    # Of some thousand values in a run, one is as far off by chance in less than a thousand runs.
    assert (np.abs(counts / draws - wanted) <= 6 * deviation + 3 / draws).all()


def test_zero_temperature_takes_the_first_of_the_likeliest():
    assert Sampler(Sampling())(np.float32([1, 3, 3, 2]), []) == 1


def test_the_penalty_counts_for_the_likeliest_token_too():
    logits = np.float32([2.0, 1.9, -1.0])
    assert Sampler(Sampling(repetition_penalty=1.2))(logits, [0]) == 1
    np.testing.assert_array_equal(logits, np.float32([2.0, 1.9, -1.0]))


def test_a_seed_gives_the_same_choices_and_another_seed_others():
    logits = np.zeros(1000, np.float32)

    def choices(seed) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler(logits, []) for _ in range(20)]

    assert choices(7) == choices(7)
    assert choices(7) != choices(8)
    assert choices(None) != choices(None)


def test_a_wide_nucleus_takes_more_than_the_first_candidates():
    sampler = Sampler(Sampling(temperature=1.0, top_p=0.9, seed=0))
    logits = np.zeros(1000, np.float32)
    assert len({sampler(logits, []) for _ in range(3000)}) > 700


def test_impossible_tokens_are_never_drawn():
    logits = np.float32([0.0, -np.inf, 0.0])
    sampler = Sampler(Sampling(temperature=1.0, seed=0))
    assert {sampler(logits, []) for _ in range(50)} == {0, 2}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("logits", [[1.0, np.nan], [-np.inf, -np.inf]])
def test_logits_that_are_no_numbers_are_a_failure_of_the_device(logits, temperature):
    with pytest.raises(DeviceFailure, match="not numbers"):
        Sampler(Sampling(temperature=temperature))(np.float32(logits), [])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("seed", -1),
    ],
)
def test_values_out_of_range_are_refused(field, value):
    with pytest.raises(BadInput, match=field.replace("_", ".")):
        Sampling(**{field: value})
