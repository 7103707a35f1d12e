"""Programs on one 16 x 16 float32 input, for what counts bytes: 1 KiB a tensor."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax

from relay_passes.program import Node, read_program


def program(build: Callable[[relax.BlockBuilder, relax.Var], relax.Expr]) -> list[Node]:
    """The program whose output is what `build(builder, x)` returns."""
    x = relax.Var("x", relax.TensorType((16, 16), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(build(builder, x), "out")
        builder.emit_func_output(out)
    return read_program(relax.transform.Normalize()(builder.get()))
