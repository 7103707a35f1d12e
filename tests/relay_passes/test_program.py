# ruff: noqa: N805 -- a TVMScript module is not a class
"""Operators and their producers, seen through tuples and aliases."""

import numpy as np
import pytest
from layered_programs import layered
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes.program import PlacementError, describe, read_program


@I.ir_module
class Straight:
    @R.function
    def main(x: R.Tensor((2, 4), "float32")) -> R.Tuple(
        R.Tensor((2, 2), "float32"), R.Tensor((4, 2), "float32")
    ):
        with R.dataflow():
            halves = R.split(x, 2, axis=1)
            left = halves[0]
            right = halves[1]
            total = R.add(left, right)
            both = (total, left)
            stacked = R.concat(both, axis=0)
            out = (total, stacked)
            R.output(out)
        return out


@I.ir_module
class Branch:
    @R.function
    def main(c: R.Tensor((), "bool"), x: R.Tensor((2,), "float32")) -> R.Tensor((2,), "float32"):
        if c:
            y = R.add(x, x)
        else:
            y = R.multiply(x, x)
        return y


def test_tuples_are_looked_through():
    nodes = {node.name: node for node in read_program(Straight)}
    assert list(nodes) == ["halves", "total", "stacked"]
    assert nodes["halves"].reads_graph_inputs
    assert nodes["total"].inputs == ("halves",)
    assert set(nodes["stacked"].inputs) == {"total", "halves"}
    assert [node.name for node in nodes.values() if node.is_output] == ["total", "stacked"]
    assert describe(nodes["total"]) == "relax.add as total"


def test_branches_are_refused():
    with pytest.raises(PlacementError, match="main: y is bound to a If, expected an operator"):
        read_program(Branch)


def test_names_must_be_unique():
    from tvm import IRModule, relax

    x = relax.Var("x", relax.TensorType((2,), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            one = relax.DataflowVar("same", x.ty)
            builder.emit_normalized(relax.VarBinding(one, builder.normalize(relax.op.exp(x))))
            two = relax.DataflowVar("same", x.ty)
            builder.emit_normalized(relax.VarBinding(two, builder.normalize(relax.op.exp(one))))
            out = builder.emit_output(relax.op.add(two, relax.const(np.float32(1))))
        builder.emit_func_output(out)
    with pytest.raises(PlacementError, match="two operators are named 'same'"):
        read_program(IRModule(builder.get().functions))


def test_who_feeds_the_next_alone():
    """`halves` is read twice, `total` is an output, too."""
    assert not any(node.feeds_next for node in read_program(Straight))
    nodes = {node.name: node.feeds_next for node in read_program(layered(2, tap=0))}
    assert [nodes[name] for name in ("norm0", "gate0", "curve0", "stream0", "stream1")] == [
        False,  # a look-up is between
        False,
        True,
        False,
        True,
    ]
