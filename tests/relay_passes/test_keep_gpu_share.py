"""A program says what of the GPU is its, around all that it does."""

import pytest
import tvm
from tvm import relax

from relay_passes.keep_gpu_share import GPU_SHARE, KeepGpuShare


def _program():
    builder = relax.BlockBuilder()
    for name in ("main", "other"):
        x = relax.Var("x", relax.TensorType((4,), "float32"))
        with builder.function(name, [x]):
            first = builder.emit(relax.op.nn.relu(x), f"first_{name}")
            builder.emit_func_output(builder.emit(relax.op.exp(first), f"second_{name}"))
    return relax.transform.RemovePurityChecking()(builder.get())


def _calls(func):
    bindings = [binding for block in func.body.blocks for binding in block.bindings]
    return [
        (str(b.value.op.global_symbol), int(b.value.args[0].value))
        if isinstance(b.value.op, relax.ExternFunc)
        else b.var.name
        for b in bindings
    ]


@pytest.mark.parametrize("name", ["main", "other"])
def test_before_everything_and_after_everything(name):
    written = tvm.transform.Sequential([KeepGpuShare(0.6)])(_program())
    assert _calls(written[name]) == [
        (GPU_SHARE, 600_000),
        f"first_{name}",
        f"second_{name}",
        (GPU_SHARE, 1_000_000),
    ]
    assert relax.analysis.check_well_formed(written)


def test_the_least_share_is_one():
    written = tvm.transform.Sequential([KeepGpuShare(1e-9)])(_program())
    assert _calls(written["main"])[0] == (GPU_SHARE, 1)


def test_the_whole_gpu_changes_nothing():
    program = _program()
    same = tvm.transform.Sequential([KeepGpuShare(1.0)])(program)
    tvm.ir.assert_structural_equal(same, program)
