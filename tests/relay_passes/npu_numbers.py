"""Both sides of a comparison: TVM's own kernels, and ONNX Runtime on what we wrote."""

import functools

import numpy as np
import onnx
import onnxruntime
import tvm
from npu_op_cases import CASES
from tvm import relax

from relay_passes.npu_onnx import EMITTERS, region_to_onnx


def relative_error(exact, other):
    """Norm of the difference over the norm; 0/0 is 0."""
    exact, other = exact.astype(np.float64), other.astype(np.float64)
    return np.linalg.norm(exact - other) / max(np.linalg.norm(exact), 1e-30)


@functools.cache
def _machine():
    """All cases compiled at once: a compilation each would cost a minute."""
    functions = {c.name: c.function().with_attr("global_symbol", c.name) for c in CASES}
    mod = relax.transform.DecomposeOpsForInference()(tvm.IRModule(functions))
    return relax.VirtualMachine(tvm.compile(mod, "llvm"), tvm.cpu())


def by_tvm(case):
    """Results of `case` from TVM's kernels on the CPU, in the declared types."""
    result = _machine()[case.name](*[tvm.runtime.tensor(x) for x in case.inputs()])
    return [result.numpy()] if hasattr(result, "numpy") else [field.numpy() for field in result]


def by_onnx(case, *, half_inside):
    """Results of the model that we write for `case`, from ONNX Runtime's CPU provider."""
    model = region_to_onnx(case.function(), half_inside=half_inside)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {f"in{i}": x for i, x in enumerate(case.inputs())})


def cases_of(module):
    """The rows whose operator's emitter is in `module`."""
    return [c for c in CASES if EMITTERS[c.call().op.name].__module__ == module.__name__]


def check(case):
    """Types, shapes and numbers of both forms agree with TVM's."""
    wanted = by_tvm(case)
    # Exact forms differ by float32's order of summation, and by ONNX Runtime's sigmoid, which is
    # good to 6e-6; the others approximate gelu to 3e-5 of 1.
    for half_inside, tolerance in ((False, 1e-5), (True, 1e-4)):
        found = by_onnx(case, half_inside=half_inside)
        assert [(x.dtype, x.shape) for x in found] == [(x.dtype, x.shape) for x in wanted]
        for exact, other in zip(wanted, found, strict=True):
            assert relative_error(exact, other) <= tolerance
