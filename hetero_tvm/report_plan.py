"""The text of `hetero-tvm plan`: operators, the modes side by side, NPU regions."""

from __future__ import annotations

import collections
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from hetero_tvm.plan_regions import Region
from hetero_tvm.plan_report import PlanReport
from hetero_tvm.plan_totals import MODELLED, standing_still
from hetero_tvm.report_text import MODE_TITLES, memory_lines
from relay_passes.place import MODES
from relay_passes.plan import Offer, OpPlan, Plan
from relay_passes.plan_reasons import early_reason
from schedules.npu_profile import NoEstimate

_WIDTH = 100
_NOTES_SHOWN = 5  # in one row
_BETTER = {  # what takes the roofline's place, by its provenance
    "vendor-estimated": "the vendor's estimate",
    "measured": "fitted to measured kernels",
}


def plan_summary(report: PlanReport, *, verbose: bool) -> str:
    """What goes where and why, and what else it could have cost."""
    lines = [*_operators(report, verbose=verbose), "", *_modes(report)]
    if report.regions is not None:
        lines += ["", *_regions(report.regions)]
    lines += ["", *memory_lines(report.memory)]
    return "\n".join(lines)


def lengths_table(reports: Mapping[int, PlanReport], title: str = "length") -> str:
    """One row per length: what each mode takes, and how much is split."""
    titles = "".join(f"{MODE_TITLES[name]:>14}" for name in MODES)
    lines = [f"{title:>8}{titles}{'split MACs':>12}{'plan is':>18}  best"]
    for length, report in reports.items():
        times = "".join(f"{report.modes[name].predicted_us / 1e3:>11.3f} ms" for name in MODES)
        split = report.modes["split"]
        lines.append(
            f"{length:>8}{times}{split.split_share:>12.1%}{_exactness(split):>18}"
            f"  {MODE_TITLES[report.best]}"
        )
    kinds = dict.fromkeys(report.provenance for report in reports.values())
    lines.append(f"Times are {'; or '.join(kinds)}.")
    return "\n".join(lines)


def _operators(report: PlanReport, *, verbose: bool) -> Iterator[str]:
    """Operators in groups, times in sums; refusals as numbered notes."""
    plan = report.plan
    columns = ["gpu", "npu", *(["cpu"] if plan.device_us["cpu"] else [])]
    reasons = dict.fromkeys(reason for op in plan.ops for reason in op.declined.values())
    note_of = {reason: number for number, reason in enumerate(reasons, 1)}
    groups: dict[tuple[str, str, str], list[OpPlan]] = collections.defaultdict(list)
    for op in plan.ops:
        why = _why(op, report.devices) + early_reason(op.early)
        groups[op.device, op.op, why].append(op)
    splits = any(op.offers or op.split for op in plan.ops)
    titles = "".join(f"{f'{device.upper()} µs':>10}   " for device in columns)
    titles += f"{'split NPU+GPU µs':>19}   " if splits else ""
    yield f"{'device':<8}{'operator':<24}{'count':>5}{titles}  why"
    for (device, name, why), ops in groups.items():
        times = "".join(_times(report, ops, column) for column in columns)
        times += _split_times(ops) if splits else ""
        head = f"{device:<8}{name.removeprefix('relax.'):<24}{len(ops):>5}{times}"
        yield f"{head}  {why}{_notes(ops, note_of)}"
        if verbose:
            for op in ops:
                times = "".join(_times(report, [op], column) for column in columns)
                times += _split_times([op]) if splits else ""
                node = report.node_of.get(op.name, op.name)
                yield f"{'':<37}{times}  {node}{_notes([op], note_of)}"
                yield from (f"{'':<41}{_offered(offer, op)}" for offer in op.offers)
    if note_of:
        yield ""
    for reason, number in note_of.items():
        yield from textwrap.wrap(f"[{number}] {reason}", _WIDTH, subsequent_indent="    ")
    yield ""
    if splits:
        yield from textwrap.wrap(
            "A split's times are those of its two parts, at the same time; in brackets the best "
            "one of operators that are not split. -v lists every split that was considered.",
            _WIDTH,
        )
    words = {_rests_on(report, *key) for key in report.figure_of}
    better = sorted({kind for kind in report.provenance_of.values() if kind != MODELLED})
    yield from textwrap.wrap(
        "Times are modelled: a roofline on figures of the target's spec"
        + "".join(f", or {_BETTER.get(kind, kind)}" for kind in better)
        + ". What they rest on is "
        + ", ".join(f"{word[0]} {word}" for word in sorted(words))
        + ".",
        _WIDTH,
    )
    if verbose:
        yield from (f"  {figure.provenance[0]} {figure.source}" for figure in report.figures)


def _why(op: OpPlan, devices: str) -> str:
    if op.split is not None:
        split = op.split
        return f"{split.kind}: the NPU has {split.at} of {split.extent}, the GPU the rest"
    other = {"gpu": "npu", "npu": "gpu"}.get(op.device)
    if op.declined or other is None:
        verb = "declines" if len(op.declined) == 1 else "decline"
        return f"{' and '.join(device.upper() for device in op.declined)} {verb}"
    if op.cost_us[op.device] == op.cost_us[other] == 0:
        return "a view, stays with its neighbours"
    if other not in devices.split("+"):
        return "the only device asked for"
    lost = "; splits lost" if op.offers else ""
    if op.cost_us[op.device] < op.cost_us[other]:
        return f"faster here{lost}"
    return f"while the {other.upper()} does other work, or to save a wait{lost}"


def best_offer(op: OpPlan) -> Offer | None:
    """Of the splits that were considered, the one whose longer part is shortest."""
    return min(op.offers, key=lambda offer: max(offer.us.values()), default=None)


def _offered(offer: Offer, op: OpPlan) -> str:
    split, us = offer.split, offer.us
    chosen = ", chosen" if op.split == split else ""
    return (
        f"{split.kind} axis {split.axis}: NPU {split.at} of {split.extent} in {us['npu']:.1f} µs, "
        f"GPU the rest in {us['gpu']:.1f} µs{chosen}"
    )


def _notes(ops: list[OpPlan], note_of: dict[str, int]) -> str:
    """` [1, 4]`: where the refusals of these operators are written out."""
    numbers = sorted({note_of[reason] for op in ops for reason in op.declined.values()})
    if not numbers:
        return ""
    shown = [str(number) for number in numbers[:_NOTES_SHOWN]]
    return f" [{', '.join(shown)}{', …' if len(numbers) > _NOTES_SHOWN else ''}]"


def _times(report: PlanReport, ops: list[OpPlan], device: str) -> str:
    """The sum on `device`, and of which provenance the figures behind it are."""
    if any(device not in op.cost_us for op in ops):
        return f"{'-':>10}   "
    marks = "".join(sorted({_rests_on(report, op.name, device)[:1] for op in ops}))
    return f"{sum(op.cost_us[device] for op in ops):>10.1f} {marks:<2}"


def _rests_on(report: PlanReport, name: str, device: str) -> str:
    """What the time is itself, or where it is modelled its figure; nothing for a view."""
    itself = report.provenance_of.get((name, device), MODELLED)
    index = report.figure_of.get((name, device))
    if itself == MODELLED and index is not None:
        return report.figures[index].provenance
    return "" if index is None else itself


def _split_times(ops: Sequence[OpPlan]) -> str:
    """Sums of both parts: of the splits chosen, or in brackets of the best ones considered."""
    parts: list[Mapping[str, float]] = []
    for op in ops:
        offer = best_offer(op)
        if op.split is not None:
            parts.append(op.split_us)
        elif offer is not None:
            parts.append(offer.us)
    if len(parts) < len(ops):
        return f"{'-':>19}   "
    npu, gpu = (sum(part[device] for part in parts) for device in ("npu", "gpu"))
    text = f"{npu:.1f}+{gpu:.1f}"
    return f"{text if ops[0].split is not None else f'({text})':>19}   "


def _exactness(plan: Plan) -> str:
    if plan.exact:
        return "exact"
    if plan.objective != "latency":
        return "not proven"
    return f"at most {plan.gap:.1%} off"


def _modes(report: PlanReport) -> Iterator[str]:
    yield (
        f"{'':<12}{'predicted':>12}{'GPU busy':>12}{'NPU busy':>12}{'CPU busy':>12}"
        f"{'regions':>9}{'waits':>19}{'over the border':>18}  plan is"
    )
    for name in reversed(MODES):
        plan = report.modes[name]
        times = "".join(f"{plan.busy_us[d] / 1e3:>9.3f} ms" for d in ("gpu", "npu", "cpu"))
        still = standing_still(plan)
        waits = f"{len(still)} in {sum(still) / 1e3:.3f} ms"
        energy = f", {plan.joules * 1e3:.2f} mJ" if plan.joules is not None else ""
        yield (
            f"{MODE_TITLES[name]:<12}{plan.predicted_us / 1e3:>9.3f} ms{times}{plan.regions:>9}"
            f"{waits:>19}{f'{plan.border_bytes:,.0f} bytes':>18}  {_exactness(plan)}{energy}"
        )
    prose = [
        "What a single device declines runs elsewhere. Devices work at the same time: busy times "
        "overlap. Waits are those of GPU and NPU, with the time that the waiter stands still; the "
        "CPU's for the outputs comes on top. They and the border rest on "
        + ", ".join(
            f"{key} {value:g} ({origin.provenance})"
            for key, (value, origin) in report.waiting.items()
        )
        + "."
    ]
    if report.gpu_share < 1:
        prose.append(f"The GPU is ours for {report.gpu_share:.0%} of its time.")
    for text in prose:
        yield from textwrap.wrap(text, _WIDTH)
    yield from textwrap.wrap(_verdict(report), _WIDTH)


def _verdict(report: PlanReport) -> str:
    us = {name: report.modes[name].predicted_us for name in MODES}
    if report.objective != "latency":
        return f"The plan is the one with the least {report.objective} ({report.provenance})."
    single = min(("gpu", "npu"), key=us.__getitem__)
    best = report.best
    if best == single:
        return f"Best: {MODE_TITLES[best]}; both together gain nothing ({report.provenance})."
    gain = f"{us[single] / us[best]:.2f} x as fast as {MODE_TITLES[single]}"
    if best == "split":
        gain += f", {us['layer'] / us['split']:.2f} x as fast as {MODE_TITLES['layer']}"
    return f"Best: {MODE_TITLES[best]}, {gain} ({report.provenance})."


def _regions(regions: tuple[Region, ...]) -> Iterator[str]:
    if not regions:
        yield "The plan has no NPU region to estimate."
        return
    yield (
        f"{'NPU region':<14}{'ops':>4}{'modelled':>12}{'estimated':>12}"
        f"{'from … to':>18}{'ratio':>6}{'filled':>13}{'spilled':>12}{'uncosted':>9}"
    )
    shown = None
    for region in regions:
        head = f"{region.symbol:<14}{len(region.operators):>4}{region.predicted_us:>9.1f} µs"
        estimate = region.estimate
        if isinstance(estimate, NoEstimate):
            yield f"{head}  no estimate: {estimate.reason}"
            continue
        low, high = estimate.interval_us
        profile = estimate.profile
        ratio = f"{region.ratio:.2f}" if region.ratio is not None else "-"
        filled = profile.input_fill_bytes + profile.intermediate_fill_bytes
        spilled = profile.output_spill_bytes + profile.intermediate_spill_bytes
        yield (
            f"{head}{estimate.us:>9.1f} µs{f'{low:.0f} … {high:.0f}':>18}{ratio:>6}"
            f"{filled:>13,}{spilled:>12,}{profile.missing_ops:>9}"
            f"{'' if region.counts else '  not used'}"
        )
        shown = estimate
    if shown is None:
        return
    prose = (
        f"Estimated: by the vendor (vendor-estimated), for the proxy {shown.proxy.name} "
        f"(v{shown.proxy.htp_arch}): {shown.proxy_why}.",
        f"Scaled {shown.scale.rule}.",
        "Both without launch; modelled is the sum of the operators by themselves. The plan counts "
        "the estimate. Filled and spilled are bytes from and to memory, as compiled for the proxy. "
        "Where operators have no cost, it is a lower bound, and not used below the model.",
    )
    for text in prose:
        yield from textwrap.wrap(text, _WIDTH)
