"""Decide where every operator runs: NPU, GPU, both at once, or for what neither takes the CPU.

Every operator's ways to run, with what each costs, and what waiting costs, make a
`planner.problem.Problem`; `planner.solve` finds the ways that end first. Views cost nothing and
follow their neighbours. A wait is paid once for everything that it serves, so a lone cheap operator
never makes a region of its own.

The same question is also asked without splits, and of either device alone: what the plan must beat,
and what a user compares it with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from tvm import IRModule

from relay_passes.cut_choices import NO_NPU_ROWS, NpuRows
from relay_passes.op_work import Work
from relay_passes.plan import Plan
from relay_passes.planner.contention import contention_us
from relay_passes.planner.improve import improved
from relay_passes.planner.lower_bound import LowerBound
from relay_passes.planner.one_boundary import one_boundary_plans
from relay_passes.planner.problem import Op, Problem, Waiting
from relay_passes.planner.repeat import repeated
from relay_passes.planner.solve import Objective, Solution, solve
from relay_passes.planner.timeline import Timeline, evaluate
from relay_passes.program import read_program
from relay_passes.question import BOTH, Cost, Declined, Question, refused
from relay_passes.repeats import Repeat, Shortened, find_repeats, shortened

MODES = ("gpu", "npu", "layer", "split")  # the simplest first
# Ways that the planner keeps after each operator: a fraction of a second for a hundred operators,
# within a few per cent of what a hundred times as many find.
_BEAM = 200
_LONGEST = 500  # operators: a few seconds
_BEAM_OF_LAYERS = 64  # for a layer that stands for many; 200 took twice the time for 1 % at most
# Of a plan's time without contention: one that loses more is searched for once more, at prices that
# take the other device to be always at work.
_MUCH_CONTENTION = 1.02
_MOST_STEPS = 200_000  # of making the plan better after the search: a second


def place(
    mod: IRModule,
    declined: Declined,
    cost_us: Cost,
    waiting: Waiting,
    devices: Collection[str] = BOTH,
    unfit: Mapping[str, str] = MappingProxyType({}),
    *,
    split: bool = True,
    tile: int = 1,
    objective: Objective = "latency",
    gpu_share: float = 1.0,
    power_w: Mapping[str, float] = MappingProxyType({}),
) -> Plan:
    """The plan with the least predicted time, or with the least of another objective.

    Args:
        mod: as import leaves it; see `read_program`.
        declined: why a device does not take an operator.
        cost_us: of an operator's work, or of a part's.
        waiting: what order between devices costs.
        devices: with one device, whatever it takes goes to it, what it declines to the other one
            if that takes it, and the rest to the CPU.
        unfit: operators that the NPU must not get for a reason that only their surroundings show,
            such as precision.
        split: False keeps every operator whole.
        tile: rows and columns of the NPU's matrix unit; operators are cut at multiples of it.
        objective: "latency", "energy" or "edp", their product.
        gpu_share: of its time, that the GPU has for us: its work takes 1 / share as long.
        power_w: of GPU and NPU at work. The CPU's is not counted: what it computes, no other
            device can.

    Ensures: no entry of `alternatives_us` that `devices` and `split` allow is below `predicted_us`
        where latency is minimised.

    Raises:
        ValueError: an objective or share that does not exist, or energy without known power.
    """
    assert devices and set(devices) <= set(BOTH), devices
    wanted = next(iter(devices)) if len(set(devices)) == 1 else "split" if split else "layer"
    return place_all(
        mod,
        declined,
        cost_us,
        waiting,
        unfit,
        tile=tile,
        objective=objective,
        gpu_share=gpu_share,
        power_w=power_w,
    )[wanted]


def place_all(
    mod: IRModule,
    declined: Declined,
    cost_us: Cost,
    waiting: Waiting,
    unfit: Mapping[str, str] = MappingProxyType({}),
    *,
    tile: int = 1,
    objective: Objective = "latency",
    gpu_share: float = 1.0,
    power_w: Mapping[str, float] = MappingProxyType({}),
    also: Sequence[Plan] = (),
    modes: Sequence[str] = MODES,
    beam: int = _BEAM,
    longest: int = _LONGEST,
    npu_rows: NpuRows = NO_NPU_ROWS,
) -> dict[str, Plan]:
    """For each of `modes` the best plan that it allows; see `place`.

    "gpu" and "npu" are one device alone, "layer" is both with every operator whole, "split" is
    all. A mode whose best plan is no better than that of a simpler one among
    them gets the simpler plan.

    `also`: plans of the same program, found under other costs. Their splits are on offer too, and
    none of "split" that these costs make better than what the search finds is lost. `beam`: ways
    that are kept after each operator. `longest`: operators of a program that is searched as a
    whole; of a longer one a few layers are, and those that are like them do likewise. `npu_rows`:
    lengths that the NPU has no graphs for; see `cut_choices.NpuRows`.
    """
    shared = _shared(cost_us, gpu_share, power_w)
    nodes, cuts = read_program(mod), "split" in modes
    refusals = [refused(node, declined, unfit) for node in nodes]
    repeats: list[Repeat] = []
    if len(nodes) > longest:
        # Prices may differ by name: with weights of other bits a layer is another one. Those of the
        # NPU do not count, because what a region's estimate gives each operator always differs.
        repeats = find_repeats(
            nodes,
            lambda i: (
                nodes[i].work,
                tuple(refusals[i].items()),
                None if "gpu" in refusals[i] else cost_us(nodes[i].work, "gpu"),
            ),
        )
    short = shortened(nodes, repeats)
    question = Question(
        short.nodes,
        [refusals[i] for i in short.kept],
        *shared,
        tile,
        [_part(plan, short) for plan in also] if cuts else (),
        cuts=cuts,
        npu_rows=npu_rows,
    )
    search = _Search(question, waiting, objective, min(beam, _BEAM_OF_LAYERS) if repeats else beam)
    answers: dict[str, Solution] = {}
    wary: dict[str, Solution] = {}
    for mode in modes:
        # Simpler plans are plans too: choices are listed so that theirs keep their numbers.
        simpler = [question.translate(answer, m, mode) for m, answer in answers.items()]
        others = [choices for choices in simpler if choices is not None]
        if mode == "split":
            known = (question.choices_of(_part(plan, short), mode) for plan in also)
            others += [choices for choices in known if choices is not None]
        answers[mode] = search.run(mode, others)
        if objective == "latency" and mode not in BOTH:
            beside = _with_contention(question, mode, answers[mode])
            if beside.value > _MUCH_CONTENTION * answers[mode].value:
                wary[mode] = search.run(mode, others, wary=True)
    if repeats:
        whole = question.of_whole(nodes, short.likes[0])
        wholes: dict[str, Solution] = {}
        for mode, answer in answers.items():
            problem = Problem(whole.ops(mode), waiting)
            simpler = [whole.translate(found, m, mode) for m, found in wholes.items()]
            others = [choices for choices in simpler if choices is not None]
            few = question.ops(mode)
            wholes[mode] = _repeated(problem, few, answer, short, objective, others)
            if mode in wary:
                wary[mode] = _repeated(problem, few, wary[mode], short, objective, [])
        question, answers = whole, wholes

    if objective == "latency":
        for mode in set(answers) - set(BOTH):
            found = answers[mode]
            answers[mode] = _with_contention(question, mode, found)
            if mode in wary:
                other = _with_contention(question, mode, wary[mode])
                # What no plan beats without contention, none beats with it.
                other = dataclasses.replace(other, bound_us=found.bound_us, bound=found.bound)
                answers[mode] = min(answers[mode], other, key=lambda answer: answer.value)

    def merit(mode: str) -> tuple[float, float]:
        answer = answers[mode]
        return float(f"{answer.value:.6g}"), round(answer.timeline.total_us, 3)

    plans = {}
    for wanted in modes:
        simpler_ones = MODES[: MODES.index(wanted) + 1]
        allowed = [wanted] if wanted in BOTH else [mode for mode in modes if mode in simpler_ones]
        best = min(allowed, key=merit)
        plans[wanted] = question.plan(answers, best, wanted, waiting, objective)
    return plans


def reprice(
    mod: IRModule,
    plan: Plan,
    declined: Declined,
    cost_us: Cost,
    waiting: Waiting,
    unfit: Mapping[str, str] = MappingProxyType({}),
    *,
    wanted: str,
    breaks: Collection[str] = (),
    tile: int = 1,
    objective: Objective = "latency",
    gpu_share: float = 1.0,
    power_w: Mapping[str, float] = MappingProxyType({}),
    npu_rows: NpuRows = NO_NPU_ROWS,
) -> Plan:
    """The same places at other costs: times, waits and reasons are new, nothing is searched.

    Args:
        mod: the program that `plan` is of.
        plan: found by `place_all`.
        declined: as there, like all that is not said here.
        cost_us: the new costs.
        waiting: what order between devices costs.
        unfit: operators that the NPU must not get.
        wanted: the mode that the plan is for; of "split" are splits offered.
        breaks: operators that begin a region of the NPU where one would go on.
        tile: rows and columns of the NPU's matrix unit.
        objective: what was minimised.
        gpu_share: of its time, that the GPU has for us.
        power_w: of GPU and NPU at work.
        npu_rows: lengths that the NPU has no graphs for.
    """
    shared = _shared(cost_us, gpu_share, power_w)
    nodes, cuts = read_program(mod), wanted == "split"
    refusals = [refused(node, declined, unfit) for node in nodes]
    question = Question(
        nodes, refusals, *shared, tile, (plan,), breaks, cuts=cuts, npu_rows=npu_rows
    )
    problem = Problem(question.ops("split"), waiting)
    choices = question.choices_of(plan, "split")
    assert choices is not None, "the plan is on offer"
    timeline = evaluate(problem, choices)
    joules = _sum_joules(problem, choices)
    answer = Solution(tuple(choices), timeline, False, 0.0, joules, timeline.total_us, 0.0)
    if objective == "latency":
        answer = _with_contention(question, "split", answer)
    return question.plan({wanted: answer, "split": answer}, "split", wanted, waiting, objective)


class _Search:
    """Best choices for one program, mode by mode."""

    def __init__(
        self, question: Question, waiting: Waiting, objective: Objective, beam: int
    ) -> None:
        self.question = question
        self.waiting = waiting
        self.objective = objective
        self.beam = beam

    def run(self, mode: str, others: Sequence[Sequence[int]], *, wary: bool = False) -> Solution:
        """The best of `mode`, no worse than any of `others`.

        `wary`: the best if each device always worked beside the other one, at its real price.
        """
        problem = Problem(self.question.ops(mode, wary=wary), self.waiting)
        with_cuts = mode == "split" and self.objective == "latency"
        if with_cuts:
            others = [*others, *one_boundary_plans(problem)]
        answer = solve(problem, beam=self.beam, others=others, objective=self.objective)
        choices = answer.choices
        if with_cuts and not answer.exact:
            choices = improved(problem, choices, most_steps=_MOST_STEPS)
        if choices == answer.choices and not wary:
            return answer
        real = Problem(self.question.ops(mode), self.waiting)
        timeline = evaluate(real, choices)
        return dataclasses.replace(
            answer,
            choices=choices,
            timeline=timeline,
            value=timeline.total_us,
            joules=_sum_joules(real, choices),
            exact=answer.exact and not wary,
        )


def _with_contention(question: Question, mode: str, answer: Solution) -> Solution:
    """`answer` with the time that its devices take of each other."""
    ops = question.ops(mode)
    slowdown = [question.slowdown(i, ops[i].choices[n]) for i, n in enumerate(answer.choices)]
    total_us = answer.timeline.total_us + contention_us(answer.timeline, slowdown)
    timeline = dataclasses.replace(answer.timeline, total_us=total_us)
    exact = answer.exact and total_us == answer.value
    return dataclasses.replace(answer, timeline=timeline, value=total_us, exact=exact)


def _part(plan: Plan, short: Shortened) -> Plan:
    """What `plan` says of the operators of the short program."""
    return dataclasses.replace(plan, ops=tuple(plan.ops[number] for number in short.kept))


def _repeated(
    problem: Problem,
    few: Sequence[Op],
    answer: Solution,
    short: Shortened,
    objective: Objective,
    others: Sequence[Sequence[int]],
) -> Solution:
    """The answer for the short program as one for the whole, `problem`; no worse than `others`.

    `few`: the short program's operators.
    """

    def value(choices: Sequence[int], timeline: Timeline) -> float:
        joules = 0.0 if objective == "latency" else _sum_joules(problem, choices) or 0.0
        us = timeline.total_us
        return {"latency": us, "energy": joules, "edp": joules * us}[objective]

    chosen = [op.choices[n] for op, n in zip(few, answer.choices, strict=True)]
    choices, timeline = repeated(problem, chosen, short.likes, value, others)
    exact = all(len(op.choices) == 1 for op in problem.ops)
    found = value(choices, timeline)
    bound_us = timeline.total_us if exact else LowerBound(problem).of_all()
    return Solution(
        choices=choices,
        timeline=timeline,
        exact=exact,
        bound_us=bound_us,
        joules=_sum_joules(problem, choices),
        value=found,
        bound=found if exact else bound_us if objective == "latency" else 0.0,
    )


def _shared(
    cost_us: Cost, gpu_share: float, power_w: Mapping[str, float]
) -> tuple[Cost, Mapping[str, float] | None]:
    """Costs and power of a GPU that others use too: it is a slower one, also in the balance."""
    if not 0 < gpu_share <= 1:
        raise ValueError(f"gpu_share is {gpu_share}; it must be above 0, at most 1")

    def ours(work: Work, device: str, *, both: bool = False) -> float:
        us = cost_us(work, device, both=both)
        return us / gpu_share if device == "gpu" else us

    watts = {"cpu": 0.0, **power_w, "gpu": power_w["gpu"] * gpu_share} if power_w else None
    return ours, watts


def _sum_joules(problem: Problem, choices: Sequence[int]) -> float | None:
    spent = [op.choices[n].joules for op, n in zip(problem.ops, choices, strict=True)]
    known = [joules for joules in spent if joules is not None]
    return sum(known) if len(known) == len(spent) else None
