"""A program with operators in parts computes what the program computes."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy_relax import evaluate
from split_programs import Grow, Model, legal_cuts, models, plan_of, random_plan
from tvm import IRModule, relax

from relay_passes.calls import parts_of
from relay_passes.group_regions import GroupRegions
from relay_passes.op_work import op_name, static_shape
from relay_passes.planner.problem import Cut
from relay_passes.program import PlacementError, read_program
from relay_passes.sharding import is_contiguous
from relay_passes.split_tensor import Splitted, split_tensor


def inputs_of(mod: IRModule) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [static_shape(param.ty) for param in mod["main"].params]
    return [rng.uniform(-1, 1, shape).astype(np.float64) for shape in shapes]


def check(mod: IRModule, plan) -> Splitted:
    """Compare the program in parts, with and without its regions outlined, with the program."""
    cut = split_tensor(mod, plan)
    relax.analysis.well_formed(cut.mod)
    inputs = inputs_of(mod)
    wanted = evaluate(mod, inputs)
    for made in (cut.mod, GroupRegions(cut.region)(cut.mod)):
        got = evaluate(made, inputs)
        assert len(cut.output_axes) == len(got) == len(wanted)
        for ours, theirs, axes in zip(got, wanted, cut.output_axes, strict=True):
            seen = ours if axes is None else np.transpose(ours, axes)
            np.testing.assert_allclose(seen, theirs, rtol=1e-9, atol=1e-9)
    on_npu = {name for name, device in cut.device.items() if device == "npu"}
    assert on_npu == set(cut.region)
    return cut


@given(models(), st.integers(0, 2**32))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_random_models_with_random_cuts(mod, seed):
    rng = random.Random(seed)
    check(mod, some_early(mod, random_plan(mod, rng), rng))


def some_early(mod, plan, rng):
    """Some of what the GPU computes as a whole in two parts instead, whoever reads them."""
    ops = []
    for node, op in zip(read_program(mod), plan.ops, strict=True):
        shape = static_shape(node.call.ty)
        if op.device == "gpu" and shape is not None and rng.random() < 0.5:
            cuts = [c for _, c in legal_cuts(node.call) if is_contiguous(shape, c.axis)]
            op = dataclasses.replace(op, early=rng.choice(cuts) if cuts else None)
        ops.append(op)
    return dataclasses.replace(plan, ops=tuple(ops))


# --- one thing at a time -------------------------------------------------------------------------


def program(shape: tuple[int, ...], *kinds: str | Grow) -> tuple[IRModule, list[str]]:
    """A chain of operators on one input, and their names."""
    model = Model(random.Random(0))
    model.input(*shape)
    mod = model.finish(list(kinds), len(kinds), 0, newest=True)
    return mod, [node.name for node in read_program(mod)]


def planned(mod: IRModule, places: dict[str, str | int | tuple[int, int]]):
    """A device, a cut (axis, at), or for an axis alone its first legal cut, of each operator."""
    nodes, chosen = read_program(mod), []
    for node in nodes:
        place = places[node.name]
        if isinstance(place, str):
            chosen.append((place, None))
            continue
        wanted = [(s, c) for s, c in legal_cuts(node.call) if (c.axis, c.at) == place]
        chosen.append(("gpu+npu", wanted[0]))
    return plan_of(nodes, chosen)


def written(cut: Splitted) -> list[str]:
    """Every binding as `name = operator(operands)`."""
    lines = []
    for block in cut.mod["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            name, args = op_name(call).removeprefix("relax."), list(call.args)
            if name == "call_pure_packed":
                name, args = str(args[0].global_symbol).removeprefix("hetero_tvm."), args[1:]
            operands = [arg.name for arg in args if isinstance(arg, relax.Var)]
            lines.append(f"{binding.var.name} = {name}({', '.join(operands)})")
    return lines


def test_a_chain_cut_alike_is_joined_once_at_its_end():
    mod, names = program((8, 4), "matmul", "bias", "relu")
    cut = check(mod, planned(mod, dict.fromkeys(names, (0, 3))))
    assert written(cut) == [
        "input0_npu_part = slice(input0)",
        "op0_matmul_npu = matmul(input0_npu_part)",
        "input0_gpu_part = slice(input0)",
        "op0_matmul_gpu = matmul(input0_gpu_part)",
        "op1_add_npu = add(op0_matmul_npu)",
        "op1_add_gpu = add(op0_matmul_gpu)",
        "out0_npu = nn.relu(op1_add_npu)",
        "out0_gpu = nn.relu(op1_add_gpu)",
        "out0 = join(out0_npu, out0_gpu)",
    ]
    assert cut.region.keys() == {"op0_matmul_npu", "op1_add_npu", "out0_npu"}
    assert cut.output_axes == (None,)


def test_columns_are_stored_first_axis_first_and_returned_as_they_lie():
    mod, _names = program((5, 4), "matmul")
    cut = check(mod, planned(mod, {"out0": (1, 2)}))
    assert written(cut) == [
        "out0_npu = matmul(input0)",
        "out0_gpu = matmul(input0)",
        "out0_npu_first = permute_dims(out0_npu)",
        "out0_gpu_first = permute_dims(out0_gpu)",
        "out0_joined = join(out0_npu_first, out0_gpu_first)",
    ]
    assert cut.output_axes == ((1, 0),)


def test_whoever_needs_all_of_the_columns_reads_through_a_permutation():
    mod, names = program((5, 4), "matmul", "softmax", "relu")
    cut = check(mod, planned(mod, dict(zip(names, [(1, 2), "gpu", "gpu"], strict=True))))
    lines = written(cut)
    assert "op0_matmul_gpu_whole = permute_dims(op0_matmul_joined)" in lines
    assert "op1_softmax = nn.softmax(op0_matmul_gpu_whole)" in lines
    assert cut.device["op0_matmul_gpu_whole"] == "gpu"


def test_a_single_row_needs_no_permutation():
    mod, _names = program((1, 4), "matmul")
    cut = check(mod, planned(mod, {"out0": (1, 2)}))
    assert written(cut)[-1] == "out0 = join(out0_npu, out0_gpu)"
    assert cut.output_axes == (None,)


def test_a_view_that_the_npu_needs_whole_is_inside_its_region():
    """Otherwise the region would wait for itself."""
    mod, names = program(
        (3, 4),
        lambda model, x, _: relax.op.matmul(x, model.weight(4, 6)),
        lambda model, x, _: relax.op.reshape(x, (3, 2, 3)),
        "softmax",
    )
    places = dict(zip(names, [(1, 3), (1, 1), "npu"], strict=True))
    cut = check(mod, planned(mod, places))
    assert cut.device["op1_reshape"] == "npu"


def test_a_region_slices_what_it_made_itself():
    mod, names = program((4, 4), "relu", "softmax")
    plan = planned(mod, dict(zip(names, ["npu", (0, 1)], strict=True)))
    one_region = tuple(dataclasses.replace(op, region=0) for op in plan.ops)
    lines = written(split_tensor(mod, dataclasses.replace(plan, ops=one_region)))
    assert f"{names[0]}_npu_part = strided_slice({names[0]})" in lines
    assert f"{names[0]}_gpu_part = slice({names[0]})" in lines


def test_what_the_npu_reads_is_made_first_and_read_alone():
    mod, names = program((8, 4), "relu", "matmul")
    plan = planned(mod, dict(zip(names, ["gpu", (0, 3)], strict=True)))
    first = dataclasses.replace(plan.ops[0], early=Cut(0, 3, 8))
    cut = check(mod, dataclasses.replace(plan, ops=(first, *plan.ops[1:])))
    early, late = (part.name for part in parts_of(first))
    assert written(cut) == [
        "input0_gpu_part = slice(input0)",
        f"{early} = nn.relu(input0_gpu_part)",
        "input0_gpu_part_2 = slice(input0)",
        f"{late} = nn.relu(input0_gpu_part_2)",
        f"out0_npu = matmul({early})",
        f"out0_gpu = matmul({late})",
        "out0 = join(out0_npu, out0_gpu)",
    ]
    assert (cut.device[early], cut.device[late]) == ("gpu", "gpu")


def test_constants_are_cut_at_build_time():
    mod, _names = program((2, 4), "matmul")
    extent = int(mod["main"].body.body.ty.shape[1].value)
    cut = split_tensor(mod, planned(mod, {"out0": (1, 1)}))
    shapes = [
        static_shape(binding.value.args[1].ty)
        for block in cut.mod["main"].body.blocks
        for binding in block.bindings
        if op_name(binding.value) == "relax.matmul"
    ]
    assert shapes == [(4, 1), (4, extent - 1)]


def test_unsplit_operators_keep_their_names():
    mod, names = program((4, 4), "matmul", "relu")
    cut = split_tensor(mod, planned(mod, dict.fromkeys(names, "gpu")))
    assert [line.split(" = ")[0] for line in written(cut)] == names
    assert cut.device == dict.fromkeys(names, "gpu")


def test_fields_of_an_operator_with_several_results_are_read_where_it_is_not_cut():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((8, 6), "float32"))
    with builder.function("main", [x], attrs={"origin": "a model"}):
        with builder.dataflow():
            before = builder.emit(relax.op.nn.relu(x), "before")
            pair = builder.emit(relax.op.split(before, 2, axis=1), "pair")
            right = builder.emit(pair[1], "right")
            last = builder.emit(relax.op.subtract(right, pair[0]), "last")
            result = builder.emit_output(relax.op.nn.relu(last), "y")
        builder.emit_func_output(result)
    mod = relax.transform.CanonicalizeBindings()(builder.get())
    names = [node.name for node in read_program(mod)]
    places = {name: "npu" if "pair" in name else (0, 3) for name in names}
    cut = check(mod, planned(mod, places))
    assert cut.mod["main"].attrs["origin"] == "a model"


def test_a_plan_for_another_program_is_refused():
    mod, _names = program((4, 4), "relu")
    other, _ = program((4, 4), "matmul", "relu")
    with pytest.raises(PlacementError, match="the plan is for another program: op0_matmul differs"):
        split_tensor(other, planned(mod, {"out0": "gpu"}))


def test_a_cut_without_a_rule_is_refused():
    mod, _names = program((4, 4), "softmax")
    (node,) = read_program(mod)
    rows = legal_cuts(node.call)[0][0]
    plan = plan_of([node], [("gpu+npu", (rows, Cut(1, 2, 4)))])
    with pytest.raises(PlacementError, match=r"relax\.nn\.softmax cannot be cut along axis 1"):
        split_tensor(mod, plan)
