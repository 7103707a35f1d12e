"""Rewriting binding by binding: names stay, the dead go."""

# ruff: noqa: N805, F841 - TVMScript: no `self`, and a binding that nothing reads

from tvm import relax
from tvm.ir import assert_structural_equal
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes.rewrite_bindings import (
    dataflow_bindings,
    is_call,
    only_values,
    rename_main,
    rewrite_main,
)


@I.ir_module
class Module:
    @R.function
    def main(x: R.Tensor((2, 3), "float32")) -> R.Tuple(
        R.Tensor((2, 3), "float32"), R.Tensor((2, 3), "float32")
    ):
        with R.dataflow():
            first = R.nn.relu(x)
            second = R.exp(first)
            unread = R.tanh(x)
            third = R.add(second, second)
            R.output(third)
        return (third, x)


def _names(mod):
    return [binding.var.name for binding in dataflow_bindings(mod["main"])]


def test_nothing_changes_but_the_dead():
    result = rewrite_main(Module, lambda _var, _value, _known: None)
    assert _names(result) == ["first", "second", "third"]
    assert relax.analysis.check_well_formed(result)
    assert_structural_equal(result, rewrite_main(result, lambda _var, _value, _known: None))


def test_new_intermediates_are_called_after_the_binding():
    def rule(_var, value, _known):
        if is_call(value, "relax.exp"):
            return relax.op.sqrt(relax.op.sin(value.args[0]))
        return None

    assert _names(rewrite_main(Module, rule)) == ["first", "second_part", "second", "third"]


def test_a_binding_may_become_another_value():
    def rule(_var, value, _known):
        return value.args[0] if is_call(value, "relax.exp") else None

    result = rewrite_main(Module, rule)
    assert _names(result) == ["first", "third"]
    assert all(arg.name == "first" for arg in dataflow_bindings(result["main"])[1].value.args)


def test_an_output_may_become_an_inner_value():
    def rule(_var, value, _known):
        return value.args[0] if is_call(value, "relax.add") else None

    result = rewrite_main(Module, rule)
    assert _names(result) == ["first", "second"]
    assert relax.analysis.check_well_formed(result)
    assert [field.name for field in result["main"].body.body.fields] == ["second", "x"]


def test_rules_see_producers_and_readers():
    seen = {}

    def rule(var, value, known):
        producer = known.call(value.args[0], "relax.nn.relu")
        seen[var.name] = (producer is not None, known.is_read_once(value.args[0]))

    rewrite_main(Module, rule)
    # `x` is also an output, so never read once; `second` is read twice by one binding.
    assert seen == {"first": (False, False), "second": (True, True), "third": (False, False)}


def test_renaming():
    bindings = dataflow_bindings(Module["main"])
    result = rename_main(Module, {bindings[0].var: "renamed"})
    assert _names(result) == ["renamed", "second", "third"]


def test_only_values_keeps_what_they_need():
    mod = _chain()
    first = dataflow_bindings(mod["main"])[0].var
    inner = only_values(mod, [first])
    assert len(dataflow_bindings(inner["main"])) == 1
    assert [param.name for param in inner["main"].params] == ["x"]


def _chain():
    x, y = (relax.Var(name, relax.TensorType((2,), "float32")) for name in "xy")
    builder = relax.BlockBuilder()
    with builder.function("main", [x, y]):
        with builder.dataflow():
            inner = builder.emit(relax.op.exp(x), "inner")
            out = builder.emit_output(relax.op.add(inner, y), "out")
        builder.emit_func_output(relax.Tuple([out]))
    return builder.get()
