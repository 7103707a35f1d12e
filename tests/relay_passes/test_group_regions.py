# ruff: noqa: N805 -- a TVMScript module is not a class
"""Regions: what is in them, that they never wait for themselves, and that numbers stay."""

import itertools

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes.group_regions import CODEGEN, GroupRegions
from relay_passes.planner.problem import Choice, Op, Problem, Waiting
from relay_passes.planner.timeline import evaluate as timeline
from relay_passes.program import PlacementError, read_program


def regions_of(mod, npu):
    """Operator on the NPU -> its region, as the planner forms them when the rest is the GPU's."""
    nodes = read_program(mod)
    index = {node.name: i for i, node in enumerate(nodes)}
    ops = tuple(
        Op(
            choices=(
                Choice(
                    us={"npu" if node.name in npu else "gpu": 1.0}, reads=(None,) * len(node.inputs)
                ),
            ),
            inputs=tuple(index[name] for name in node.inputs),
            reads_graph_inputs=node.reads_graph_inputs,
            is_output=node.is_output,
        )
        for node in nodes
    )
    pairs = itertools.permutations(("cpu", "gpu", "npu"), 2)
    waiting = Waiting(wait_us=dict.fromkeys(pairs, 1.0))
    found = timeline(Problem(ops, waiting), [0] * len(ops)).region_of
    return {
        node.name: number for node, number in zip(nodes, found, strict=True) if number is not None
    }


def grouped(mod, npu):
    out = GroupRegions(regions_of(mod, npu))(mod)
    relax.analysis.well_formed(out)
    return out


def regions(mod):
    """Region symbol -> names bound in it."""
    return {
        gv.name_hint: [b.var.name for b in func.body.blocks[0].bindings]
        for gv, func in sorted(mod.functions_items(), key=lambda item: item[0].name_hint)
        if func.attrs is not None and func.attrs.get("Codegen") == CODEGEN
    }


def evaluate(mod, *inputs):
    lowered = relax.transform.LegalizeOps()(mod)
    for gv, func in lowered.functions_items():
        if isinstance(func, relax.Function) and gv.name_hint != "main":
            lowered[gv] = func.without_attr("Codegen").without_attr("global_symbol")
    vm = relax.VirtualMachine(tvm.compile(lowered, "llvm"), tvm.cpu())
    results = vm["main"](*(tvm.runtime.tensor(value) for value in inputs))
    many = results if not hasattr(results, "numpy") else [results]
    return [result.numpy() for result in many]


def assert_same_numbers(before, after, *shapes):
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    for old, new in zip(evaluate(before, *inputs), evaluate(after, *inputs), strict=True):
        np.testing.assert_array_equal(old, new)  # the same kernels in the same order


@I.ir_module
class Diamond:
    """a ─ b ─ d with a ─ d as well."""

    @R.function
    def main(x: R.Tensor((2, 3), "float32")) -> R.Tensor((2, 3), "float32"):
        with R.dataflow():
            a = R.multiply(x, R.const([[1.0, 2.0, 3.0]], "float32"))
            b = R.nn.relu(a)
            d = R.add(a, b)
            e = R.exp(d)
            R.output(e)
        return e


@I.ir_module
class Branches:
    """Two inputs' paths that meet; a tuple made, taken apart, and put together again."""

    @R.function
    def main(x: R.Tensor((2, 4), "float32"), y: R.Tensor((2, 2), "float32")) -> R.Tuple(
        R.Tensor((2, 2), "float32"), R.Tensor((2, 4), "float32")
    ):
        with R.dataflow():
            halves = R.split(x, 2, axis=1)
            left = halves[0]
            right = halves[1]
            swapped = R.concat((right, left), axis=1)
            activated = R.nn.relu(y)
            total = R.add(left, activated)
            out = (total, swapped)
            R.output(out)
        return out


def test_one_region_with_its_constant_inside():
    after = grouped(Diamond, {"a", "b", "d"})
    assert regions(after) == {"npu_region_0": ["a", "b", "d"]}
    region = after["npu_region_0"]
    assert region.attrs["global_symbol"] == "npu_region_0"
    assert len(region.params) == 1  # x; the constant moved inside
    assert [b.var.name for b in after["main"].body.blocks[0].bindings] == ["d", "e"]
    assert_same_numbers(Diamond, after, (2, 3))


def test_a_detour_over_the_gpu_splits_the_region():
    """`d` reads `a` directly, but also what the GPU made of it: one region would be a cycle."""
    after = grouped(Diamond, {"a", "d", "e"})
    assert regions(after) == {"npu_region_0": ["a"], "npu_region_1": ["d", "e"]}
    assert [b.var.name for b in after["main"].body.blocks[0].bindings] == ["a", "b", "e"]
    assert_same_numbers(Diamond, after, (2, 3))


def test_several_results_come_as_a_tuple_of_tensors():
    after = grouped(Branches, {"halves", "swapped"})
    assert regions(after)["npu_region_0"][:2] == ["halves", "right"]
    result = after["npu_region_0"].ret_ty
    assert [list(map(int, field.shape)) for field in result.fields] == [[2, 4], [2, 2]]
    assert_same_numbers(Branches, after, (2, 4), (2, 2))


@pytest.mark.parametrize(
    "npu",
    [{"halves"}, {"swapped"}, {"total"}, {"swapped", "total"}, {"halves", "swapped", "activated"}],
    ids=lambda names: "+".join(sorted(names)),
)
def test_tuples_across_the_border(npu):
    assert_same_numbers(Branches, grouped(Branches, npu), (2, 4), (2, 2))


def test_independent_work_of_one_stage_is_one_region():
    after = grouped(Branches, {"swapped", "activated"})
    assert regions(after) == {"npu_region_0": ["swapped", "activated", "npu_region_0_results"]}


def test_all_on_the_npu_leaves_one_call():
    after = grouped(Branches, {"halves", "swapped", "activated", "total"})
    assert len(regions(after)) == 1
    calls = [b for b in after["main"].body.blocks[0].bindings if isinstance(b.value, relax.Call)]
    assert len(calls) == 1
    assert_same_numbers(Branches, after, (2, 4), (2, 2))


def test_what_nobody_reads_makes_no_region():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((2,), "float32")) -> R.Tensor((2,), "float32"):
            with R.dataflow():
                used = R.exp(x)
                unused = R.sin(x)  # noqa: F841
                last = R.exp(used)
                R.output(last)
            return last

    assert regions(grouped(Module, {"used", "unused"})) == {"npu_region_0": ["used"]}
    assert regions(grouped(Module, {"unused"})) == {}


def test_nothing_on_the_npu_changes_nothing():
    tvm.ir.assert_structural_equal(grouped(Diamond, set()), Diamond)


def test_the_input_module_is_untouched():
    before = Diamond.script()
    grouped(Diamond, {"a", "b"})
    assert Diamond.script() == before


def test_a_region_stands_where_its_first_operator_stood():
    """The NPU is given its work first, and the GPU's goes on beside it."""

    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((2,), "float32")) -> R.Tensor((2,), "float32"):
            with R.dataflow():
                n1 = R.exp(x)
                g1 = R.sin(x)
                n2 = R.exp(n1)
                g2 = R.add(g1, n2)
                R.output(g2)
            return g2

    names = [b.var.name for b in grouped(Module, {"n1", "n2"})["main"].body.blocks[0].bindings]
    assert names == ["n2", "g1", "g2"]


def test_a_region_waits_for_what_it_reads():
    """Its first operator stood before what its second one needs."""

    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((2,), "float32")) -> R.Tensor((2,), "float32"):
            with R.dataflow():
                n1 = R.exp(x)
                g1 = R.sin(x)
                n2 = R.add(n1, g1)
                R.output(n2)
            return n2

    after = GroupRegions({"n1": 0, "n2": 0})(Module)
    names = [b.var.name for b in after["main"].body.blocks[0].bindings]
    assert names == ["g1", "n2"]


def test_the_planners_numbers_decide_who_is_together():
    """Two regions stay two though nothing stands between them, whatever their numbers."""
    after = GroupRegions({"a": 7, "b": 7, "d": 3})(Diamond)
    assert regions(after) == {
        "npu_region_0": ["a", "b", "npu_region_0_results"],
        "npu_region_1": ["d"],
    }
    assert_same_numbers(Diamond, after, (2, 3))


def test_plan_of_another_program_is_refused():
    with pytest.raises(PlacementError, match="the plan is for another program: halves differ"):
        GroupRegions({"halves": 0})(Diamond)


def test_random_programs_never_wait_for_themselves():
    """Random graphs and plans: regions are convex, and every number stays."""
    rng = np.random.default_rng(7)
    for _ in range(25):
        mod = _random_module(rng, size=12)
        nodes = read_program(mod)
        npu = {node.name for node in nodes if rng.random() < 0.5}
        found = regions_of(mod, npu)
        for number in set(found.values()):
            assert not _leaves_and_returns(nodes, {n for n in found if found[n] == number})
        assert_same_numbers(mod, grouped(mod, npu), (3,))


def _leaves_and_returns(nodes, group):
    """Does any path start and end in `group` with a step outside between?"""
    behind = set()  # operators outside that depend on the group
    for node in nodes:
        if node.name in group and behind & set(node.inputs):
            return True
        if node.name not in group and (set(node.inputs) & (group | behind)):
            behind.add(node.name)
    return False


def _random_module(rng, size):
    x = relax.Var("x", relax.TensorType((3,), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            values = [x]
            for index in range(size):
                left, right = (values[i] for i in rng.integers(0, len(values), 2))
                values.append(builder.emit(relax.op.maximum(left, right), f"op{index}"))
            values.append(builder.emit(relax.op.add(values[-1], values[-2]), "last"))
            picked = relax.Tuple([values[-1], values[size // 2]])
            out = builder.emit_output(picked)
        builder.emit_func_output(out)
    return builder.get()
