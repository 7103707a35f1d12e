"""Steps from a planner's answer: against the planner's own clocks, on random small problems."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetero_tvm.simulator import Machine, Wait, Work, simulate
from hetero_tvm.steps import Load, bounded, program
from relay_passes.planner.problem import Choice, Cut, Op, Problem, Waiting
from relay_passes.planner.timeline import evaluate

PAIRS = list(itertools.permutations(("cpu", "gpu", "npu"), 2))
CUT = Cut(0, 1, 4)


def waiting(us=0.0, **more):
    return Waiting(wait_us=dict.fromkeys(PAIRS, us), **more)


def machine(us=0.0, region_us=0.0):
    return Machine(
        two_devices_gbps=1e9,
        launch_us=0.0,
        drained_us=0.0,
        region_us=region_us,
        seen_us={"cpu": us, "gpu": us, "npu": us},
    )


def loads(problem, choices):
    return [
        {device: Load(us, 0.0) for device, us in op.choices[number].us.items()}
        for op, number in zip(problem.ops, choices, strict=True)
    ]


def names(problem):
    return [f"op {index}" for index in range(len(problem.ops))]


@st.composite
def programs(draw):
    ops = []
    for index in range(draw(st.integers(1, 7))):
        inputs = sorted(draw(st.sets(st.integers(0, index - 1), max_size=2))) if index else []
        times = st.floats(1, 50).map(lambda us: round(us, 1))
        kind = draw(st.sampled_from(["gpu", "npu", "both"]))
        if kind == "both":
            reads = tuple(draw(st.sampled_from([None, CUT])) for _ in inputs)
            choice = Choice(us={"gpu": draw(times), "npu": draw(times)}, reads=reads, makes=CUT)
        else:
            choice = Choice(us={kind: draw(times)}, reads=(None,) * len(inputs))
        ops.append(Op(choices=(choice,), inputs=tuple(inputs), is_output=True, nbytes=100))
    return ops


@given(programs())
def test_is_the_planners_time_where_nothing_costs_but_work(ops):
    problem = Problem(ops=tuple(ops), waiting=waiting())
    choices = [0] * len(ops)
    steps = program(problem, choices, loads(problem, choices), names(problem)).steps
    planned, simulated = evaluate(problem, choices).total_us, simulate(steps, machine()).total_us
    # The one thing that the planner leaves out: a host that waits for the NPU submits nothing.
    assert simulated >= planned - 1e-6
    blocked = any(isinstance(step, Wait) for step in steps[: -_waits_at_the_end(steps) or None])
    if not blocked:
        assert simulated == pytest.approx(planned)


def _waits_at_the_end(steps):
    return sum(1 for _ in itertools.takewhile(lambda s: isinstance(s, Wait), reversed(steps)))


@given(programs())
def test_chains_agree_with_the_planner_also_with_waits_and_regions(ops):
    chain = []
    for index, op in enumerate(ops):
        choice, inputs = op.choices[0], (index - 1,) if index else ()
        reads = (choice.reads[0] if choice.reads else None,) if index else ()
        choice = Choice(us=choice.us, reads=reads, makes=choice.makes)
        last = index == len(ops) - 1
        chain.append(Op(choices=(choice,), inputs=inputs, nbytes=100, is_output=last))
    wait_us = 2.0
    problem = Problem(
        ops=tuple(chain), waiting=waiting(wait_us, region_us=5.0, border_us_per_byte=0.01)
    )
    choices = [0] * len(ops)
    steps = program(problem, choices, loads(problem, choices), names(problem)).steps
    planned = evaluate(problem, choices).total_us
    simulated = simulate(steps, machine(wait_us, region_us=5.0)).total_us
    # All that may differ: while the host waits it gives the NPU nothing either.
    waits = sum(isinstance(step, Wait) for step in steps)
    assert planned - 1e-6 <= simulated <= planned + waits * wait_us + 1e-6


def test_a_cut_chain_is_waited_for_once():
    part = {"gpu": 10.0, "npu": 10.0}
    ops = (
        Op(choices=(Choice(us=part, reads=(), makes=CUT),), nbytes=400),
        Op(choices=(Choice(us=part, reads=(CUT,), makes=CUT),), inputs=(0,), nbytes=400),
        Op(choices=(Choice(us={"gpu": 5.0}, reads=(None,)),), inputs=(1,), is_output=True),
    )
    problem = Problem(ops=ops, waiting=waiting(border_us_per_byte=0.01))
    made = program(problem, [0, 0, 0], loads(problem, [0, 0, 0]), ["a", "b", "c"])
    described = [
        f"wait {step.on}" if isinstance(step, Wait) else f"{step.device} {step.name}"
        for step in made.steps
    ]
    assert described == ["npu a", "gpu a", "npu b", "gpu b", "wait npu", "gpu c", "wait gpu"]
    assert made.regions == 1
    # Its quarter of the last result leaves the chip, in the time of the last job.
    last = made.steps[2]
    assert (last.us, last.nbytes) == (pytest.approx(11.0), pytest.approx(100))
    assert made.border_bytes == pytest.approx(100)


def test_what_is_made_early_is_two_kernels_and_the_npu_waits_for_one():
    early = Choice(us={"gpu": 40.0}, reads=(), early=CUT, late_us=30.0)
    part = Choice(us={"gpu": 10.0, "npu": 50.0}, reads=(CUT,), makes=CUT)
    ops = (Op(choices=(early,)), Op(choices=(part,), inputs=(0,), is_output=True))
    problem = Problem(ops=ops, waiting=waiting(2.0))
    made = program(problem, [0, 0], [{"gpu": Load(40.0, 400.0)}, loads(problem, [0, 0])[1]], "ab")
    first, second, job, _ = (step for step in made.steps if isinstance(step, Work))
    assert (first.us, first.nbytes, first.late) == (10.0, 100.0, False)
    assert (second.us, second.nbytes, second.late) == (30.0, 300.0, True)
    assert (job.device, job.after_gpu, job.before_late) == ("npu", True, True)
    found = simulate(made.steps, machine(2.0)).total_us
    assert found == pytest.approx(evaluate(problem, [0, 0]).total_us) == 10 + 2 + 50 + 2


def test_of_a_shared_gpu_the_first_part_is_the_same_part():
    """The plan's times are for a quarter of the GPU, the load's for all of it."""
    early = Choice(us={"gpu": 160.0}, reads=(), early=CUT, late_us=120.0)
    problem = Problem(ops=(Op(choices=(early,)),), waiting=waiting(2.0))
    made = program(problem, [0], [{"gpu": Load(40.0, 400.0)}], "a")
    first, second = (step for step in made.steps if isinstance(step, Work))
    assert (first.us, second.us) == (10.0, 30.0)


def test_long_kernels_are_cut_to_the_bound():
    work = Work(name="big", device="gpu", us=100.0, nbytes=800.0)
    short = Work(name="small", device="gpu", us=9.0)
    other = Work(name="npu", device="npu", us=500.0)
    steps = bounded([work, Wait("npu"), short, other], stretch_us=60.0, launch_us=5.0)
    pieces = steps[:-3]
    assert steps[-3:] == (Wait("npu"), short, other)
    assert len(pieces) == 4  # 95 us of work, at most 30 less a launch of 5 each
    assert all(piece.us <= 30 for piece in pieces)
    assert sum(piece.us - 5 for piece in pieces) == pytest.approx(95)
    assert sum(piece.nbytes for piece in pieces) == pytest.approx(800)
