"""Operators whose float16 rounding the outputs would feel are found, and no others."""

import logging

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op as O

from relay_passes.npu_precision import BUDGET, TOLERANCE, _give_up, _runs, precision_declines
from target_specs.loader import load_spec

HTP = load_spec("snapdragon-8-gen-3").npu
HOST = load_spec("host").npu
X = np.random.default_rng(0).uniform(1, 2, (4, 6)).astype("float32")


def program(*steps):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, 6), "float32"))
    values = [x]
    with builder.function("main", [x]):
        with builder.dataflow():
            for index, step in enumerate(steps):
                values.append(builder.emit(step(*values), f"step{index}"))
            result = builder.emit_output(values[-1])
        builder.emit_func_output(result)
    return tvm.IRModule({"main": builder.get()["main"]})


def scaled(*values):
    return O.multiply(values[-1], relax.const(1.25, "float32"))


def cancelled(*values):
    """`y - 0.999 y`: what y was rounded by is a thousand times as large a part of it."""
    nearly = O.multiply(values[-1], relax.const(0.999, "float32"))
    return O.subtract(values[-1], nearly)


CANCELLING = program(scaled, scaled, lambda *v: O.square(v[-1]), cancelled, *[scaled] * 30)


def test_a_tame_program_keeps_everything():
    assert precision_declines(program(*[scaled] * 8), HTP, [{"x": X}]) == {}


def test_the_cancelling_stretch_is_given_up():
    declined = precision_declines(_flat(CANCELLING), HTP, [{"x": X}])
    assert "step2" in declined  # what is cancelled, not the subtraction
    assert len(declined) <= 12
    assert all("float16 here alone changes" in why for why in declined.values())


def _flat(mod):
    """Nested calls as bindings of their own, as import leaves a program."""
    return relax.transform.Normalize()(mod)


def test_an_npu_in_float32_declines_nothing():
    assert precision_declines(_flat(CANCELLING), HOST, [{"x": X}]) == {}


def test_a_program_that_cannot_be_emulated_is_left_alone(caplog):
    mod = program(scaled, lambda *values: O.cumsum(values[-1], axis=1))
    with caplog.at_level(logging.WARNING):
        assert precision_declines(mod, HTP, [{"x": X}]) == {}
    assert "relax.cumsum" in caplog.text


def test_the_same_program_gives_the_same_answer():
    mod = _flat(CANCELLING)
    assert precision_declines(mod, HTP, [{"x": X}]) == precision_declines(mod, HTP, [{"x": X}])


def test_runs_cover_all_operators_once():
    for count in (1, 5, 24, 100):
        assert [i for run in _runs(count) for i in run] == list(range(count))


@pytest.mark.parametrize("bad", [{3}, {0, 40}, {17, 18, 19}])
def test_search_finds_what_is_too_coarse(bad):
    shares = {i: (1e-2 if i in bad else 1e-5) for i in range(100)}

    def error(runs):
        return sum(shares[i] ** 2 for run in runs for i in run) ** 0.5

    given_up = {i for run, _ in _give_up(_runs(100), error, BUDGET) for i in run}
    assert bad <= given_up
    assert len(given_up) <= 8 * len(bad)


def test_errors_that_add_up_straight_are_held_too():
    def error(runs):
        return sum(4e-4 for run in runs for _ in run)  # not by squares, as the search hopes

    given_up = {i for run, _ in _give_up(_runs(48), error, BUDGET) for i in run}
    assert error([range(48 - len(given_up))]) <= BUDGET


def test_budget_leaves_room():
    assert BUDGET <= TOLERANCE / 2
