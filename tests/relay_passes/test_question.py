"""What the planner is asked of each operator, and the question of a program by a shorter one's."""

import pytest
from attended_programs import attended
from layered_programs import layered
from tvm import relax

from relay_passes.attention import AttentionAttrs, attention
from relay_passes.plan import OpPlan, Plan
from relay_passes.planner.problem import Cut, Problem, Waiting
from relay_passes.program import read_program
from relay_passes.question import Question, refused
from relay_passes.repeats import find_repeats, shortened

NODES = read_program(layered(10))


def declined(call, device):
    return "no norms" if "norm" in str(call.op) and device == "npu" else None


def cost_us(work, device, *, both=False):
    return (work.bytes + work.macs) / {"gpu": 50.0, "npu": 30.0, "cpu": 1.0}[device]


def question(nodes, **more):
    return Question(
        nodes, [refused(node, declined, {"curve1": "harmed"}) for node in nodes], cost_us, None, 1
    )


def test_refusals_have_reasons_of_the_rule_or_of_the_surroundings():
    reasons = {node.name: refused(node, declined, {"curve1": "harmed"}) for node in NODES}
    assert reasons["norm1"] == {"npu": "no norms"}
    assert reasons["curve1"] == {"npu": "harmed"}
    assert reasons["curve2"] == {}


def test_modes_allow_what_they_say():
    asked = question(NODES)
    names = [node.name for node in NODES]
    gate, norm = (names.index(name) for name in ("gate4", "norm4"))
    devices = {
        mode: [choice.device for choice in asked.ops(mode)[gate].choices]
        for mode in ("gpu", "npu", "layer", "split")
    }
    assert (devices["gpu"], devices["npu"]) == (["gpu"], ["npu"])
    assert devices["layer"] == ["gpu", "npu"]
    assert devices["split"][:2] == ["gpu", "npu"]
    assert set(devices["split"][2:]) == {"gpu+npu"}
    assert [choice.device for choice in asked.ops("npu")[norm].choices] == ["gpu"]


def test_attention_over_a_cache_goes_where_it_is_cheaper_also_for_the_npu_alone():
    """An NPU's graph reads all of the cache, which may be a hundred times what is filled."""
    shapes = {"q": (1, 2, 4, 8), "k": (1, 2, 64, 8), "v": (1, 2, 64, 8)}
    params = [relax.Var(name, relax.TensorType(shape, "float32")) for name, shape in shapes.items()]
    params.append(relax.Var("past", relax.TensorType((1,), "int32")))
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            call = attention(*params, AttentionAttrs(scale=1.0))
            out = builder.emit_output(relax.op.negative(builder.emit(call)))
        builder.emit_func_output(out)
    asked = question(read_program(builder.get()))
    of_attention, of_rest = asked.ops("npu")
    assert [choice.device for choice in of_attention.choices] == ["gpu", "npu"]
    assert [choice.device for choice in of_rest.choices] == ["npu"]
    assert [choice.device for choice in asked.ops("gpu")[0].choices] == ["gpu"]


def test_attention_is_made_early_as_the_one_that_reads_it_can_be_cut():
    asked = question(read_program(attended()))
    _, _, of_attention, of_product, _ = asked.ops("split")
    cuts = {choice.reads[0] for choice in of_product.choices} - {None}
    early = [choice for choice in of_attention.choices if choice.early is not None]
    assert {choice.early for choice in early} == cuts != set()
    for choice in early:
        begin, end = choice.early.of("gpu")
        assert choice.device == "gpu"
        assert choice.late_us / choice.us["gpu"] == pytest.approx((end - begin) / 64, rel=0.2)
    for mode in ("gpu", "npu", "layer"):
        assert all(choice.early is None for choice in asked.ops(mode)[2].choices)


def test_beside_the_other_device_both_parts_are_dearer():
    """As whole operators are, which they are weighed against."""

    def dear(work, device, *, both=False):
        return cost_us(work, device) * (3.0 if both else 1.0)

    nodes = read_program(attended())
    asked = Question(nodes, [{} for _ in nodes], dear, None, 1)
    alone, beside = (asked.ops("split", wary=wary)[2].choices for wary in (False, True))
    early = [(a, b) for a, b in zip(alone, beside, strict=True) if a.early is not None]
    assert early
    for one, other in early:
        assert other.early == one.early
        assert other.us["gpu"] == pytest.approx(3 * one.us["gpu"])
        assert other.late_us == pytest.approx(3 * one.late_us)


MIXES = {f"mixed{layer}" for layer in range(8)}


@pytest.mark.parametrize(
    ("tap", "wanted"),
    [
        (None, MIXES),
        (0, {"mixed7"}),  # the last layer is none of those that are alike
        (4, {"mixed7"}),
        (7, MIXES - {"mixed7"}),
    ],
)
def test_nothing_is_early_that_somebody_else_reads(tap, wanted):
    """Also where that is seen in the whole program alone, and not in the shortened one."""
    nodes = read_program(attended(8, tap=tap))
    short = shortened(nodes, find_repeats(nodes, lambda number: None))
    assert len(short.nodes) < len(nodes)
    whole = question(short.nodes).of_whole(nodes, short.likes[0])
    problem = Problem(whole.ops("split"), Waiting(wait_us=dict.fromkeys(_pairs(), 1.0)))
    early = {
        node.name
        for node, op in zip(nodes, problem.ops, strict=True)
        if any(choice.early for choice in op.choices)
    }
    assert early == wanted


def test_early_work_loses_beside_the_other_device_what_its_parts_lose():
    def dear(work, device, *, both=False):
        return (1.0 + cost_us(work, device)) * (1.5 if both and work.rows != 64 else 1.0)

    nodes = read_program(attended())
    asked = Question(nodes, [{} for _ in nodes], dear, None, 1)
    alone, *_ = choices = asked.ops("split")[2].choices
    early = next(choice for choice in choices if choice.early is not None)
    assert asked.slowdown(2, alone) != asked.slowdown(2, early)
    both = next(c for c in asked.ops("split", wary=True)[2].choices if c.early == early.early)
    assert asked.slowdown(2, early) == {"gpu": both.us["gpu"] / early.us["gpu"] - 1}


def test_a_plan_that_is_not_on_offer_has_no_choices():
    nodes = read_program(attended(1, tap=0))  # what is read twice is not made early
    ops = [placed(node, Cut(1, 3, 64) if node.name == "mixed0" else None) for node in nodes]
    asked = Question(nodes, [{} for _ in nodes], cost_us, None, 1)
    assert asked.choices_of(Plan(ops=tuple(ops), predicted_us=0.0), "split") is None


def placed(node, early):
    """On the GPU."""
    return OpPlan(
        name=node.name,
        op="",
        device="gpu",
        reason="",
        cost_us={},
        declined={},
        macs=0,
        early=early,
    )


def test_what_another_plan_has_early_is_on_offer():
    """Whatever the one that reads it does there, and wherever it would be cut here."""
    nodes = read_program(attended())
    ops = [placed(node, Cut(1, 3, 64) if node.name == "mixed0" else None) for node in nodes]
    plan = Plan(ops=tuple(ops), predicted_us=0.0)
    asked = Question(nodes, [{} for _ in nodes], cost_us, None, 1, (plan,))
    found = asked.choices_of(plan, "split")
    chosen = [op.choices[number] for op, number in zip(asked.ops("split"), found, strict=True)]
    assert [choice.early for choice in chosen] == [op.early for op in plan.ops]


def test_the_question_of_the_whole_is_that_of_the_short_program():
    """Choices, costs and refusals, but each operator reads what it reads in the whole."""
    repeats = find_repeats(NODES, lambda number: None)
    short = shortened(NODES, repeats)
    whole = question(short.nodes).of_whole(NODES, short.likes[0])
    direct = question(NODES)
    problem = Problem(whole.ops("split"), Waiting(wait_us=dict.fromkeys(_pairs(), 1.0)))
    assert len(problem.ops) == len(NODES)
    for mine, theirs in zip(whole.ops("layer"), direct.ops("layer"), strict=True):
        assert (mine.inputs, mine.nbytes, mine.mates) == (
            theirs.inputs,
            theirs.nbytes,
            theirs.mates,
        )
        assert mine.is_output == theirs.is_output
        if len(mine.choices) == len(theirs.choices):  # but for curve1, which alone was harmed
            assert [choice.us for choice in mine.choices] == [
                choice.us for choice in theirs.choices
            ]


def _pairs():
    return [(a, b) for a in ("cpu", "gpu", "npu") for b in ("cpu", "gpu", "npu") if a != b]
