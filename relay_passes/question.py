"""Every way to run each operator of a program, with what it costs: what `place` asks the planner.

The operators' devices and cuts become `planner.problem.Op`s, and the planner's choices a `Plan`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from tvm import relax

from relay_passes.attention import ATTENTION
from relay_passes.cut_choices import NO_NPU_ROWS, CutChoice, NpuRows, cut_choices
from relay_passes.early_cuts import early_cuts
from relay_passes.gpu_fusion import gpu_works, kernel_mates
from relay_passes.image_order import image_results, is_stored_as_computed
from relay_passes.op_work import VIEWS, Work, op_name, static_shape, tensor_args
from relay_passes.part_work import sharding_of
from relay_passes.plan import Offer, OpPlan, Plan, Split, Wait
from relay_passes.plan_reasons import early_reason, lost_splits, place_reason, split_reason
from relay_passes.planner.problem import Choice, Cut, Op, Waiting
from relay_passes.planner.solve import Objective, Solution
from relay_passes.planner.timeline import joins_kernel
from relay_passes.program import Node
from relay_passes.sharding import (
    Sharding,
    argument_cut,
    is_contiguous,
    shard_work,
)

Declined = Callable[[relax.Call, str], str | None]  # None: the device takes it, else why not
BOTH = ("gpu", "npu")


class Cost(Protocol):
    """What an operator, or a part of one, takes on a device, in µs."""

    def __call__(self, work: Work, device: str, *, both: bool = False) -> float:
        """`both`: the other accelerator works at the same time."""
        ...


class Question:
    """The program with the ways to run each operator."""

    def __init__(
        self,
        nodes: Sequence[Node],
        refusals: Sequence[dict[str, str]],
        cost_us: Cost,
        power_w: Mapping[str, float] | None,
        tile: int,
        also: Sequence[Plan] = (),
        breaks: Collection[str] = (),
        *,
        cuts: bool = True,
        npu_rows: NpuRows = NO_NPU_ROWS,
    ) -> None:
        """`refusals`: `refused` of each operator. `cuts`: False offers only those of `also`.

        `npu_rows`: see `cut_choices.NpuRows`.
        """
        self.nodes = nodes
        self.breaks = frozenset(breaks)
        self.power_w = power_w
        self.index = {node.name: i for i, node in enumerate(nodes)}
        self.makers: dict[relax.Var, int] = {node.var: i for i, node in enumerate(nodes)}
        self.cost_us = cost_us
        self.mates = kernel_mates(nodes)
        self.refused = refusals
        self.works = gpu_works(nodes, self.mates)
        self.costs = [
            {device: cost_us(work, device) for device in _able(reasons)}
            for work, reasons in zip(self.works, refusals, strict=True)
        ]
        self.images = image_results((node.var, node.call) for node in nodes)
        self.cut_only = [bool(npu_rows) and _has_length(node, npu_rows) for node in nodes]
        self.cuts: list[list[CutChoice]] = [[] for _ in nodes]
        if cuts:
            self.cuts = cut_choices(
                nodes, self.works, self._npu_share, self._split_us, tile, npu_rows
            )
        for plan in also:
            self._offer_splits(plan)
        self.offers = [
            [self._cut_choice(i, cut) for cut in cuts] for i, cuts in enumerate(self.cuts)
        ]
        early = early_cuts(nodes, self.offers, also)
        self.early = {wary: self._early_choices(early, both=wary) for wary in (False, True)}

    def of_whole(self, nodes: Sequence[Node], like: Sequence[int]) -> Question:
        """The question of a program whose operator `i` is like operator `like[i]` of this one.

        It has the same ways to run, at the same costs.
        """
        whole = copy.copy(self)
        whole.nodes = nodes
        whole.index = {node.name: i for i, node in enumerate(nodes)}
        whole.makers = {node.var: i for i, node in enumerate(nodes)}
        whole.mates = kernel_mates(nodes)
        whole.refused = [self.refused[i] for i in like]
        whole.images = image_results((node.var, node.call) for node in nodes)
        whole.works = [self.works[i] for i in like]
        whole.costs = [self.costs[i] for i in like]
        whole.cut_only = [self.cut_only[i] for i in like]
        whole.cuts = [self.cuts[i] for i in like]
        whole.offers = [self.offers[i] for i in like]
        whole.early = {wary: [found[i] for i in like] for wary, found in self.early.items()}
        return whole

    def _offer_splits(self, plan: Plan) -> None:
        """Offer the splits of `plan` that are not on offer."""
        for node, placed, cuts in zip(self.nodes, plan.ops, self.cuts, strict=True):
            assert node.name == placed.name, f"the plan has {placed.name} for {node.name}"
            split = placed.split
            if split is not None and all(choice.cut != split.cut for choice in cuts):
                pads = split.kind == "hybrid"
                cuts.append(CutChoice(sharding_of(node, placed), split.cut, pads=pads))

    def choices_of(self, plan: Plan, mode: str) -> list[int] | None:
        """The choices that `plan` made, in the numbers of `mode`; None where one is missing."""
        found = []
        for index, placed in enumerate(plan.ops):
            cut = placed.split.cut if placed.split is not None else None
            places = [choice.place for choice in self._choices(index, mode)]
            wanted = (placed.device, cut, placed.early)
            if wanted not in places:
                return None
            found.append(places.index(wanted))
        return found

    def _npu_share(self, index: int) -> float | None:
        if set(self.costs[index]) != set(BOTH):
            return None
        gpu, npu = (self.cost_us(self.works[index], d, both=True) for d in BOTH)
        return gpu / (gpu + npu) if gpu + npu else 0.5

    def _parts_us(self, index: int, choice: CutChoice) -> dict[str, float]:
        call, work = self.nodes[index].call, self.works[index]
        parts = {d: shard_work(call, work, choice.sharding, choice.cut, d) for d in BOTH}
        return {device: self.cost_us(part, device, both=True) for device, part in parts.items()}

    def _split_us(self, index: int, choice: CutChoice) -> float:
        return max(self._parts_us(index, choice).values())

    def _cut_choice(self, index: int, choice: CutChoice) -> Choice:
        node, work = self.nodes[index], self.works[index]
        sharding, cut = choice.sharding, choice.cut
        us = self._parts_us(index, choice)
        reads: dict[int, set[Cut | None]] = {}
        for position, arg in enumerate(tensor_args(node.call)):
            maker = self.makers.get(arg) if isinstance(arg, relax.Var) else None
            if maker is not None:
                read = argument_cut(node.call, sharding, cut, position)
                reads.setdefault(maker, set()).add(read)
        makers = (self.index[name] for name in node.inputs)
        shape = static_shape(node.call.ty) or ()
        gather = 0.0
        image = node.var in self.images
        as_computed = is_stored_as_computed(shape, cut.axis, image=image)
        if not is_contiguous(shape, cut.axis) and not as_computed:
            # Read through a permutation: once more through memory.
            moved = Work(kind="vector", bytes=2 * work.output_bytes, output_bytes=work.output_bytes)
            gather = self.cost_us(moved, "gpu")
        return Choice(
            us=us,
            reads=tuple(
                next(iter(found)) if len(found := reads.get(maker, {None})) == 1 else None
                for maker in makers
            ),
            makes=cut,
            kind=choice.kind,
            gather_us=gather,
            joules=self._joules(us),
            alone_us=self._alone_us(
                shard_work(node.call, work, sharding, cut, "gpu"), us, both=True
            ),
        )

    def _early_choices(
        self, cuts: Sequence[Sequence[tuple[Cut, Sharding]]], *, both: bool
    ) -> list[list[Choice]]:
        return [
            [self._early_choice(i, *way, both=both) for way in ways if "gpu" in self.costs[i]]
            for i, ways in enumerate(cuts)
        ]

    def _early_choice(self, index: int, cut: Cut, sharding: Sharding, *, both: bool) -> Choice:
        node, work = self.nodes[index], self.works[index]
        parts = [shard_work(node.call, work, sharding, cut, of) for of in ("npu", "gpu")]
        first, second = (self.cost_us(part, "gpu", both=both) for part in parts)
        us = {"gpu": first + second}
        return Choice(
            us=us,
            reads=(None,) * len(node.inputs),
            joules=self._joules(us),
            early=cut,
            late_us=second,
        )

    def _alone_us(self, work: Work, us: Mapping[str, float], *, both: bool = False) -> float:
        """What the GPU takes more where the operator cannot join its producer's kernel."""
        if not work.fuses or "gpu" not in us:
            return 0.0
        whole = self.cost_us(dataclasses.replace(work, fuses=False), "gpu", both=both)
        return max(0.0, whole - us["gpu"])

    def _joules(self, us: Mapping[str, float]) -> float | None:
        if self.power_w is None:
            return None
        return sum(self.power_w[device] * time / 1e6 for device, time in us.items())

    def ops(self, mode: str, *, wary: bool = False) -> tuple[Op, ...]:
        """The problem's operators when only the devices, or splits, of `mode` are allowed.

        `wary`: with whole operators priced as if the other device always worked, as parts are.
        """
        return tuple(
            Op(
                choices=tuple(self._choices(i, mode, wary=wary)),
                inputs=tuple(self.index[name] for name in node.inputs),
                nbytes=self.works[i].output_bytes,
                reads_graph_inputs=node.reads_graph_inputs,
                is_output=node.is_output,
                mates=self.mates[i],
                breaks=node.name in self.breaks,
            )
            for i, node in enumerate(self.nodes)
        )

    def _choices(self, index: int, mode: str, *, wary: bool = False) -> list[Choice]:
        reads = (None,) * len(self.nodes[index].inputs)
        devices = self._devices(index, mode)
        alone = [{d: self._whole_us(index, d, wary=wary)} for d in devices]
        choices = [
            Choice(
                us=us,
                reads=reads,
                joules=self._joules(us),
                alone_us=self._alone_us(self.works[index], us),
            )
            for us in alone
        ]
        if mode != "split":
            return choices
        return choices + self.offers[index] + self.early[wary][index]

    def _whole_us(self, index: int, device: str, *, wary: bool) -> float:
        beside = wary and device in BOTH
        return (
            self.cost_us(self.works[index], device, both=True)
            if beside
            else self.costs[index][device]
        )

    def slowdown(self, index: int, choice: Choice) -> dict[str, float]:
        """Of an operator that stays whole: by what share it grows while the other device works."""
        if choice.makes is not None or not set(choice.us) <= set(BOTH):
            return {}
        (device,) = choice.us
        if choice.early is None:
            alone = self.costs[index][device]
            both = self.cost_us(self.works[index], device, both=True)
        else:
            alone, both = (
                next(one for one in self.early[wary][index] if one.early == choice.early).us[device]
                for wary in (False, True)
            )
        return {device: both / alone - 1} if both > alone > 0 else {}

    def _devices(self, index: int, mode: str) -> list[str]:
        """The devices that take operator `index` whole; views may follow anyone.

        So may attention over a cache whoever asks for the NPU: its graph reads the whole cache, the
        GPU's kernel what is filled of it.
        """
        costs = self.costs[index]
        if self.cut_only[index] and "gpu" in costs:
            return ["gpu"]
        free = mode in ("layer", "split")
        name = op_name(self.nodes[index].call)
        if free or (mode == "npu" and (name in VIEWS or name == ATTENTION)):
            return list(costs)
        return [mode] if mode in costs else list(costs)

    def translate(self, answer: Solution, source: str, target: str) -> list[int] | None:
        """The choices of `answer` in the numbers of another mode; None where one is missing."""
        translated = []
        for index, chosen in enumerate(answer.choices):
            theirs, ours = (self._choices(index, mode) for mode in (source, target))
            if theirs[chosen] not in ours:
                return None
            translated.append(ours.index(theirs[chosen]))
        return translated

    # --- the answer ------------------------------------------------------------------------------

    def plan(
        self,
        answers: Mapping[str, Solution],
        mode: str,
        wanted: str,
        waiting: Waiting,
        objective: Objective,
    ) -> Plan:
        """The answer of `mode` as the best that `wanted` allows."""
        answer = answers[mode]
        timeline = answer.timeline
        chosen = [self._choices(i, mode)[n] for i, n in enumerate(answer.choices)]
        names = [node.name for node in self.nodes]
        crossing = min(waiting.wait_us["gpu", "npu"], waiting.wait_us["npu", "gpu"])
        return Plan(
            ops=tuple(
                self._op_plan(i, chosen, timeline.region_of[i], wanted, crossing)
                for i in range(len(chosen))
            ),
            predicted_us=timeline.total_us,
            waits=tuple(
                Wait(
                    waiter=wait.waiter,
                    on=wait.on,
                    before=names[wait.op] if wait.op < len(names) else "",
                    us=wait.us,
                )
                for wait in timeline.waits
            ),
            border_bytes=timeline.border_bytes,
            bound_us=answers[wanted].bound_us,
            exact=answers[wanted].exact,
            alternatives_us={m: found.timeline.total_us for m, found in answers.items()},
            busy_us=dict(timeline.busy_us),
            joules=answer.joules,
            objective=objective,
            breaks=tuple(name for name in names if name in self.breaks),
        )

    def _joins(self, index: int, choice: Choice, chosen: Sequence[Choice]) -> bool:
        inputs = tuple(self.index[name] for name in self.nodes[index].inputs)
        op = Op(choices=(choice,), inputs=inputs, mates=self.mates[index])
        return joins_kernel({i: chosen[i] for i in inputs}, op, choice)

    def _op_plan(
        self,
        index: int,
        chosen: Sequence[Choice],
        region: int | None,
        wanted: str,
        crossing: float,
    ) -> OpPlan:
        node, refusals, choice = self.nodes[index], self.refused[index], chosen[index]
        cost, us = dict(self.costs[index]), dict(choice.us)
        whole = Choice(us={"gpu": 0.0}, reads=(None,) * len(node.inputs))
        if "gpu" in cost and not self._joins(index, whole, chosen):  # it is, or were, a kernel
            cost["gpu"] += self._alone_us(self.works[index], cost)
        if choice.makes is not None and not self._joins(index, choice, chosen):
            us["gpu"] += choice.alone_us
        split = _split(choice) if choice.makes else None
        early_us = (us["gpu"] - choice.late_us, choice.late_us) if choice.early else ()
        offers = tuple(
            Offer(split=_split(offer), us=dict(offer.us))
            for offer in (self.offers[index] if wanted == "split" else ())
        )
        if split is not None:
            reason = split_reason(split, us, cost)
        else:
            devices = [wanted] if wanted in BOTH else BOTH
            reason = place_reason(choice.device, cost, refusals, devices, crossing)
            reason += early_reason(choice.early, early_us) + lost_splits(offers)
        return OpPlan(
            name=node.name,
            op=op_name(node.call),
            device=choice.device,
            reason=reason,
            cost_us=cost,
            declined=refusals,
            macs=self.works[index].macs,
            split=split,
            region=region,
            split_us=us if split else {},
            early=choice.early,
            early_us=early_us,
            offers=offers,
        )


def _has_length(node: Node, npu_rows: NpuRows) -> bool:
    """Whether an operator computes a result, or from one, of a length without graphs for the NPU.

    Views compute nothing.
    """
    if op_name(node.call) in VIEWS:
        return False
    read = [arg for arg in tensor_args(node.call) if isinstance(arg, relax.Var)]
    shapes = [static_shape(value.ty) or () for value in (node.call, *read)]
    return any(dim in npu_rows for shape in shapes for dim in shape)


def _split(choice: Choice) -> Split:
    cut, kind = choice.makes, choice.kind
    assert cut is not None and kind is not None
    return Split(kind=kind, axis=cut.axis, at=cut.at, extent=cut.extent)


def refused(node: Node, declined: Declined, unfit: Mapping[str, str]) -> dict[str, str]:
    """Device -> why it does not take the operator; nothing of those that do."""
    reasons = {device: declined(node.call, device) for device in BOTH}
    reasons["npu"] = reasons["npu"] or unfit.get(node.name)
    return {device: reason for device, reason in reasons.items() if reason is not None}


def _able(refusals: dict[str, str]) -> list[str]:
    return [device for device in BOTH if device not in refusals] or ["cpu"]
