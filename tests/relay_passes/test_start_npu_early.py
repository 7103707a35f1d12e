"""Regions start as soon as they can, and no earlier."""

import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax, te

from relay_passes.start_npu_early import StartNpuEarly, variables

SHAPE = (4, 4)


def _program(reads):
    """One binding per entry of `reads`: (on the NPU?, indices of what it reads, -1 the input)."""
    x = relax.Var("x", relax.TensorType(SHAPE, "float32"))
    builder = relax.BlockBuilder()
    made = [x]
    with builder.function("main", [x]):
        with builder.dataflow():
            for number, (on_npu, sources) in enumerate(reads):
                args = [made[source + 1] for source in sources]
                if on_npu:
                    call = relax.op.call_dps_packed(
                        f"region_{number}", args, relax.TensorType(SHAPE, "float32")
                    )
                    made.append(builder.emit(call, f"n{number}"))
                else:
                    compute = lambda *t: te.compute(SHAPE, lambda i, j: sum(s[i, j] for s in t))  # noqa: E731
                    call = builder.call_te(compute, *args)
                    made.append(builder.emit(call, f"g{number}"))
            out = builder.emit_output(relax.Tuple(made[1:]))
        builder.emit_func_output(out)
    return relax.transform.ToNonDataflow()(builder.get())


def _reordered(reads):
    mod = _program(reads)
    regions = [f"region_{i}" for i, (on_npu, _) in enumerate(reads) if on_npu]
    return tvm.transform.Sequential([StartNpuEarly(regions)])(mod)["main"]


def _names(func):
    bindings = [b for block in func.body.blocks for b in block.bindings]
    return [b.var.name for b in bindings if b.var.name[0] in "gn" and b.var.name[1:].isdigit()]


@pytest.mark.parametrize(
    ("reads", "order"),
    [
        # The second kernel is beside the region.
        ([(False, [-1]), (False, [-1]), (True, [0])], ["g0", "n2", "g1"]),
        # It is needed, through another one.
        (
            [(False, [-1]), (False, [-1]), (False, [1]), (True, [2])],
            ["g1", "g2", "n3", "g0"],
        ),
        # The reader of the first region waits for that one alone: the second need not stay behind.
        (
            [(True, [-1]), (False, [0]), (False, [-1]), (True, [-1])],
            ["n0", "n3", "g1", "g2"],
        ),
        # To queue `g2` the host waits for `n0`: `g1`, which is beside it, is queued before.
        (
            [(True, [-1]), (False, [-1]), (False, [0]), (True, [2])],
            ["n0", "g1", "g2", "n3"],
        ),
        # Regions keep their order.
        ([(True, [-1]), (True, [-1])], ["n0", "n1"]),
    ],
)
def test_order(reads, order):
    assert _names(_reordered(reads)) == order


@st.composite
def programs(draw):
    count = draw(st.integers(1, 10))
    return [
        (
            draw(st.booleans()),
            draw(st.lists(st.integers(-1, i - 1), min_size=1, max_size=3, unique=True)),
        )
        for i in range(count)
    ]


@given(programs())
def test_nothing_is_read_before_it_is_made(reads):
    func = _reordered(reads)
    made = set(func.params)
    bindings = [b for block in func.body.blocks for b in block.bindings]
    for binding in bindings:
        assert made.issuperset(variables(binding.value))
        made.add(binding.var)
    assert sorted(_names(func)) == sorted(
        f"{'n' if on_npu else 'g'}{i}" for i, (on_npu, _) in enumerate(reads)
    )


def test_without_regions_nothing_changes():
    mod = _program([(False, [-1]), (False, [0])])
    assert tvm.transform.Sequential([StartNpuEarly([])])(mod)["main"].same_as(mod["main"])
