"""Which cuts are offered: boundaries on the tile, at the balance, along whole chains."""

import numpy as np
import pytest
from tvm import relax

from relay_passes.cut_choices import NO_NPU_ROWS, cut_choices
from relay_passes.op_work import dtype_bytes, op_work, tensor_args
from relay_passes.planner.problem import Cut
from relay_passes.program import read_program
from relay_passes.sharding import argument_cut, fits

TILE = 32


def program(emit, *shape, dtype="float32"):
    """`main` from what `emit(builder, x)` returns."""
    x = relax.Var("x", relax.TensorType(shape, dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(emit(builder, x))
        builder.emit_func_output(out)
    return read_program(builder.get())


def weight(*shape, dtype="float32"):
    return relax.const(np.ones(shape, dtype))


def columns_win(_index, choice):
    """When the later part ends: columns are worth trying beside rows."""
    return 1.0 if choice.rows else 0.5


def cuts_of(nodes, share=0.5, tile=TILE, refuse=(), split_us=columns_win, npu_rows=NO_NPU_ROWS):
    """Operator name -> its cuts; `share` of each is the NPU's, those in `refuse` are not cut."""
    works = [op_work(node.call) for node in nodes]

    def npu_share(index):
        return None if nodes[index].name in refuse else share

    found = cut_choices(nodes, works, npu_share, split_us, tile, npu_rows)
    return {
        node.name: [choice.cut for choice in choices]
        for node, choices in zip(nodes, found, strict=True)
    }


def chain(builder, x):
    """matmul, bias, GELU, matmul: an encoder's feed-forward part."""
    up = builder.emit(relax.op.matmul(x, weight(64, 256)), "up")
    bias = builder.emit(relax.op.add(up, weight(256)), "bias")
    act = builder.emit(relax.op.nn.gelu(bias), "act")
    return builder.emit(relax.op.matmul(act, weight(256, 64)), "down")


def test_rows_and_columns_at_the_balance_on_the_tile():
    nodes = program(lambda b, x: b.emit(relax.op.matmul(x, weight(64, 256)), "up"), 128, 64)
    cuts = cuts_of(nodes, share=0.75)["up"]
    rows = {cut.at for cut in cuts if cut.axis == 0}
    columns = {cut.at for cut in cuts if cut.axis == 1}
    assert 96 in rows  # three quarters of 128
    assert 192 in columns  # three quarters of 256
    assert all(cut.at % TILE == 0 for cut in cuts)
    assert all(cut.extent == {0: 128, 1: 256}[cut.axis] for cut in cuts)


@pytest.mark.parametrize(
    ("columns_us", "axes"),
    [
        pytest.param(0.90, {0, 1}, id="clearly_faster"),
        pytest.param(0.97, {0}, id="within_the_models_error"),
        pytest.param(2.0, {0}, id="slower"),
    ],
)
def test_columns_only_where_they_are_clearly_faster_than_rows(columns_us, axes):
    nodes = program(lambda b, x: b.emit(relax.op.matmul(x, weight(64, 256)), "up"), 128, 64)
    cuts = cuts_of(nodes, split_us=lambda _, choice: 1.0 if choice.rows else columns_us)["up"]
    assert {cut.axis for cut in cuts} == axes


def test_one_row_leaves_columns():
    nodes = program(lambda b, x: b.emit(relax.op.matmul(x, weight(64, 256)), "up"), 1, 64)
    assert {cut.axis for cut in cuts_of(nodes, split_us=lambda *_: 1.0)["up"]} == {1}


@pytest.mark.parametrize("share", [0.0, 0.02, 0.98, 1.0])
def test_something_is_left_on_either_side(share):
    nodes = program(chain, 128, 64)
    for cuts in cuts_of(nodes, share=share).values():
        for cut in cuts:
            assert 0 < cut.at < cut.extent


def test_a_chain_can_stay_cut_at_one_boundary():
    nodes = program(chain, 128, 64)
    found = cuts_of(nodes)
    rows = [{cut.at for cut in cuts if cut.axis == 0} for cuts in found.values()]
    assert set.intersection(*rows)
    # columns of the first product follow its bias and activation, up to the product over them
    columns = [{cut.at for cut in found[name] if cut.axis == 1} for name in ("up", "bias", "act")]
    assert set.intersection(*columns)


def test_arguments_of_every_cut_have_a_boundary_there():
    nodes = program(chain, 96, 64)
    works = [op_work(node.call) for node in nodes]
    found = cut_choices(nodes, works, lambda i: 0.4, columns_win, TILE)
    for node, choices in zip(nodes, found, strict=True):
        for choice in choices:
            assert fits(node.call, choice.sharding, choice.cut)
            for index, _ in enumerate(tensor_args(node.call)):
                argument_cut(node.call, choice.sharding, choice.cut, index)  # does not raise


def heads(builder, x):
    """[1, 64, 128] as four heads, and their scores; attention cut by heads or by rows."""
    split = builder.emit(relax.op.reshape(x, (1, 64, 4, 32)), "split")
    query = builder.emit(relax.op.permute_dims(split, [0, 2, 1, 3]), "query")
    key = builder.emit(relax.op.permute_dims(split, [0, 2, 3, 1]), "key")
    return builder.emit(relax.op.matmul(query, key), "scores")


def test_cuts_pass_views_and_permutations():
    found = cuts_of(program(heads, 1, 64, 128))
    by_head = [cut for cut in found["scores"] if cut.axis == 1]
    assert {cut.extent for cut in by_head} == {4}
    for cut in by_head:
        assert Cut(1, cut.at, 4) in found["query"]
        assert Cut(1, cut.at, 4) in found["key"]
        assert Cut(2, cut.at, 4) in found["split"]
    rows = [cut for cut in found["scores"] if cut.axis == 2]
    assert rows
    assert all(Cut(2, cut.at, 64) in found["query"] for cut in rows)


def test_what_one_device_declines_is_not_cut_and_ends_the_chain():
    found = cuts_of(program(chain, 128, 64), refuse={"bias"})
    assert found["bias"] == []
    assert found["up"]
    assert found["down"]


def test_nothing_without_a_product():
    nodes = program(lambda b, x: b.emit(relax.op.nn.relu(x), "act"), 128, 64)
    assert cuts_of(nodes) == {node.name: [] for node in nodes}
    nodes = program(chain, 128, 64)
    assert not any(cuts_of(nodes, refuse={"up", "down"}).values())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_gpus_part_starts_at_an_aligned_address(dtype):
    nodes = program(
        lambda b, x: b.emit(relax.op.matmul(x, weight(3, 5, dtype=dtype)), "up"), 96, 3, dtype=dtype
    )
    cuts = cuts_of(nodes, tile=1)["up"]
    assert cuts
    for cut in cuts:
        inner = 5 if cut.axis == 0 else 96
        assert cut.at * inner * dtype_bytes(dtype) % 128 == 0


def _conv(images, groups=1):
    def conv(builder, x):
        kernel = weight(64, 16 // groups, 3, 3)
        return builder.emit(relax.op.nn.conv2d(x, kernel, padding=1, groups=groups), "conv")

    return program(conv, images, 16, 20, 20)


def test_a_convolution_is_cut_by_channels_and_by_rows_of_the_npus_tile():
    cuts = cuts_of(_conv(1))["conv"]
    assert {(cut.axis, cut.extent) for cut in cuts} == {(1, 64), (2, 20)}
    assert {cut.at for cut in cuts if cut.axis == 2} == {8, 16}


def test_several_images_are_not_cut_by_rows():
    assert {cut.axis for cut in cuts_of(_conv(3))["conv"]} == {0, 1}


def test_groups_leave_rows():
    assert {cut.axis for cut in cuts_of(_conv(1, groups=4))["conv"]} == {2}


def test_pointwise_convolutions_carry_the_rows_of_their_neighbour():
    def separable(builder, x):
        x = builder.emit(relax.op.nn.conv2d(x, weight(16, 1, 3, 3), groups=16, padding=1), "deep")
        x = builder.emit(relax.op.nn.relu(x), "relu")
        return builder.emit(relax.op.nn.conv2d(x, weight(24, 16, 1, 1)), "flat")

    cuts = cuts_of(program(separable, 1, 16, 40, 40))
    rows = [{cut.at for cut in cuts[name] if cut.axis == 2} for name in ("deep", "relu", "flat")]
    assert set.intersection(*rows)


def test_choices_stay_few():
    """A long chain collects its seeds' cuts; the planner's time grows with each."""

    def deep(builder, x):
        for index in range(12):
            x = builder.emit(relax.op.matmul(x, weight(256, 256)), f"layer{index}")
        return x

    found = cuts_of(program(deep, 192, 256))
    assert all(0 < len(cuts) <= 10 for cuts in found.values())
    assert all(len(set(cuts)) == len(cuts) for cuts in found.values())


@pytest.mark.parametrize(("rows", "kind"), [(300, "hybrid"), (256, "weight"), (1, "weight")])
def test_columns_are_hybrid_where_the_npu_fills_up_rows(rows, kind):
    nodes = program(lambda b, x: b.emit(relax.op.matmul(x, weight(64, 256)), "up"), rows, 64)
    works = [op_work(node.call) for node in nodes]
    (choices,) = cut_choices(nodes, works, lambda index: 0.5, columns_win, TILE)
    kinds = {choice.kind for choice in choices if not choice.rows}
    assert kinds == {kind}


def test_rows_are_cut_where_the_npu_has_graphs():
    nodes = program(chain, 160, 64)
    rows = {160: (16, 48, 128, 160, 999)}
    for name, cuts in cuts_of(nodes, share=0.8, npu_rows=rows).items():
        assert {cut.at for cut in cuts if cut.axis == 0} == {16, 48, 128}, name
        assert {cut.extent for cut in cuts if cut.axis == 0} == {160}, name
    near = cuts_of(nodes, share=0.8, npu_rows={160: (8, 16, 24, 104, 112, 120)})
    assert {cut.at for cut in near["up"] if cut.axis == 0} == {104, 112, 120}


def test_columns_of_rows_without_a_graph_are_hybrid():
    nodes = program(chain, 160, 64)
    works = [op_work(node.call) for node in nodes]
    for npu_rows, kind in (({160: (32,)}, "hybrid"), ({}, "weight")):
        found = cut_choices(nodes, works, lambda _: 0.5, columns_win, TILE, npu_rows)
        assert {c.kind for c in found[0] if c.cut.axis == 1} == {kind}


def test_heads_are_not_cut_where_rows_have_no_graph():
    def scores(builder, x):
        keys = builder.emit(relax.op.permute_dims(x, [0, 1, 3, 2]), "keys")
        return builder.emit(relax.op.matmul(x, keys), "scores")

    nodes = program(scores, 1, 8, 96, 32)
    assert {cut.axis for cut in cuts_of(nodes)["scores"]} > {2}
    assert {cut.axis for cut in cuts_of(nodes, npu_rows={96: (32, 64)})["scores"]} == {2}
