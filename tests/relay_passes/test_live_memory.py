"""Counted bytes by hand, on programs where one can."""

import numpy as np
from square_programs import program
from tvm import relax

from relay_passes.live_memory import live_bytes, weight_bytes

KB = 1024  # of one tensor [16, 16] of float32


def test_a_chain_holds_two_tensors():
    def chain(builder, x):
        for _ in range(5):
            x = builder.emit(relax.op.nn.relu(x))
        return relax.op.nn.softmax(x)

    assert live_bytes(program(chain)) == 2 * KB


def test_what_is_read_late_lives_long():
    def residual(builder, x):
        first = builder.emit(relax.op.nn.relu(x))
        last = first
        for _ in range(3):
            last = builder.emit(relax.op.nn.relu(last))
        return relax.op.add(first, last)

    assert live_bytes(program(residual)) == 3 * KB


def test_a_view_takes_nothing_and_keeps_what_it_shows():
    def viewed(builder, x):
        first = builder.emit(relax.op.nn.relu(x))
        flat = builder.emit(relax.op.reshape(first, (256,)))
        soft = builder.emit(relax.op.nn.softmax(x))
        more = builder.emit(relax.op.nn.relu(soft))
        return relax.op.add(relax.op.reshape(more, (256,)), flat)

    # first (shown by flat), soft and more
    assert live_bytes(program(viewed)) == 3 * KB


def test_equal_constants_count_once():
    weight = relax.const(np.ones((16, 16), "float32"))

    def twice(builder, x):
        return relax.op.matmul(builder.emit(relax.op.matmul(x, weight)), weight)

    assert list(weight_bytes(program(twice)).values()) == [KB]


def test_only_what_is_counted():
    def chain(builder, x):
        kept = builder.emit(relax.op.nn.relu(x), "kept")
        more = builder.emit(relax.op.nn.relu(kept), "more")
        return relax.op.add(more, kept)

    assert live_bytes(program(chain)) == 3 * KB
    assert live_bytes(program(chain), {"kept"}) == KB
    assert live_bytes(program(chain), set()) == 0
