"""Activations in 16 bits: numbers times scales are the activations, to half a scale."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from on_gpu import gpu_spec, lower, normal, run_lowered
from tvm import relax

from schedules.rounded_rows import PAIRS, STRETCH, rounded_rows


def _run(x: np.ndarray, vector_width: int = 16) -> list[np.ndarray]:
    gpu = dataclasses.replace(gpu_spec(), vector_width=vector_width)
    data = relax.Var("x", relax.TensorType(x.shape, str(x.dtype)))
    builder = relax.BlockBuilder()
    with builder.function("main", [data]):
        with builder.dataflow():
            parts = relax.Tuple(rounded_rows(builder, gpu, data))
            out = builder.emit_output(parts)
        builder.emit_func_output(out)
    return run_lowered(lower(builder.get(), "host"), [x])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(1, 32), (1, 96), (3, 5, 64), (1, 32 * 70), (2, 32 * 129)])
def test_numbers_times_scales_are_the_rows(shape, dtype):
    x = normal(1, *shape, dtype=dtype)
    pairs, scales, sums = _run(x)
    rows = x.astype(np.float64).reshape(-1, shape[-1] // STRETCH, STRETCH)
    assert pairs.shape == (*rows.shape[:2], PAIRS)
    halves = pairs.view(np.int16).reshape(*rows.shape[:2], PAIRS, 2)
    numbers = halves.swapaxes(2, 3).reshape(rows.shape)
    # Half a scale, and what a float32 product of a number loses.
    allowed = scales.astype(np.float64) * (0.5 + 32767 * 2**-22)
    assert (np.abs(numbers * scales[..., None].astype(np.float64) - rows).max(2) <= allowed).all()
    assert np.allclose(scales * 32767, np.abs(rows).max(2), rtol=1e-6)
    assert np.allclose(sums, rows.sum(2), atol=1e-5)


def test_any_length_of_vectors_gives_the_same():
    x = normal(1, 3, 96)
    usual = _run(x)
    for width in (1, 4, 8):
        assert all(np.array_equal(a, b) for a, b in zip(_run(x, width), usual, strict=True))


def test_zeros_stay_zeros():
    pairs, scales, sums = _run(np.zeros((1, 64), np.float32))
    assert not pairs.any() and not sums.any() and (scales > 0).all()
