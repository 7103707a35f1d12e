"""The text of `hetero-tvm plan`: operators, the modes side by side, NPU regions."""

from __future__ import annotations

import collections
from collections.abc import Iterator

from relay_passes.plan import OpPlan
from schedules.npu_estimate import NoEstimate

from hetero_tvm.plan_report import MODES, PlanReport, Region

_TITLES = {"gpu": "GPU only", "npu": "NPU only", "gpu+npu": "GPU + NPU"}
_GAIN = 1.005  # below it, two modes are called equally fast


def plan_summary(report: PlanReport, *, verbose: bool) -> str:
    """What goes where and why, and what else it could have cost."""
    lines = [*_operators(report, verbose=verbose), "", *_modes(report)]
    if report.regions is not None:
        lines += ["", *_regions(report.regions)]
    return "\n".join(lines)


def _operators(report: PlanReport, *, verbose: bool) -> Iterator[str]:
    """Operators in groups, times in sums; refusals as numbered notes."""
    plan = report.plan
    columns = ["gpu", "npu", *(["cpu"] if plan.device_us["cpu"] else [])]
    notes: dict[str, int] = {}
    groups: dict[tuple[str, str, str], list[OpPlan]] = collections.defaultdict(list)
    for op in plan.ops:
        groups[op.device, op.op, _why(op, report.devices, notes)].append(op)
    titles = "".join(f"{f'{device.upper()} µs':>12}" for device in columns)
    yield f"{'device':<8}{'operator':<24}{'count':>5}{titles}  why"
    for (device, name, why), ops in groups.items():
        times = "".join(_times(report, ops, column) for column in columns)
        yield f"{device:<8}{name.removeprefix('relax.'):<24}{len(ops):>5}{times}  {why}"
        if verbose:
            for op in ops:
                times = "".join(_times(report, [op], column) for column in columns)
                yield f"{'':<37}{times}  {report.node_of.get(op.name, op.name)}"
    if notes:
        yield ""
        yield from (f"[{number}] {reason}" for reason, number in notes.items())
    yield ""
    yield (
        "Times are modelled: a roofline on figures of the target's spec, which are "
        + ", ".join(f"{word[0]} {word}" for word in _provenances(report))
        + "."
    )
    if verbose:
        yield from (f"  {figure.provenance[0]} {figure.source}" for figure in report.figures)


def _why(op: OpPlan, devices: str, notes: dict[str, int]) -> str:
    refusals = [
        f"{device.upper()} declines [{notes.setdefault(reason, len(notes) + 1)}]"
        for device, reason in op.declined.items()
    ]
    other = {"gpu": "npu", "npu": "gpu"}.get(op.device)
    if refusals or other is None:
        return ", ".join(refusals)
    if op.cost_us[op.device] == op.cost_us[other] == 0:
        return "a view, stays with its neighbours"
    if other not in devices.split("+"):
        return "the only device asked for"
    if op.cost_us[op.device] < op.cost_us[other]:
        return "faster here"
    return "stays with its neighbours: hand-overs would cost more"


def _times(report: PlanReport, ops: list[OpPlan], device: str) -> str:
    """The sum on `device`, and of which provenance the figures behind it are."""
    if any(device not in op.cost_us for op in ops):
        return f"{'-':>11} "
    used = {
        report.figure_of[op.name, device] for op in ops if (op.name, device) in report.figure_of
    }
    marks = "".join(sorted({report.figures[index].provenance[0] for index in used}))
    return f"{sum(op.cost_us[device] for op in ops):>10.1f} {marks:<1}"


def _provenances(report: PlanReport) -> list[str]:
    return sorted({figure.provenance for figure in report.figures})


def _modes(report: PlanReport) -> Iterator[str]:
    yield f"{'':<12}{'predicted':>12}{'on GPU':>11}{'on NPU':>11}{'on CPU':>11}{'hand-overs':>19}"
    for name in reversed(MODES):
        mode = report.modes[name].to_dict()
        times = "".join(f"{mode['device_us'][d] / 1e3:>8.3f} ms" for d in ("gpu", "npu", "cpu"))
        moves = f"{mode['handed_over_tensors']}: {mode['handover_us'] / 1e3:.3f} ms"
        yield (
            f"{_TITLES[name]:<12}{mode['predicted_us'] / 1e3:>9.3f} ms{times}{moves:>19}, "
            f"{mode['handed_over_bytes']:,} bytes"
        )
    yield "What a single device declines runs elsewhere. Bytes change device in place, uncopied."
    yield _verdict(report)


def _verdict(report: PlanReport) -> str:
    us = {name: report.modes[name].plan.predicted_us for name in MODES}
    single = min(("gpu", "npu"), key=lambda name: us[name])
    gain = us[single] / us["gpu+npu"] if us["gpu+npu"] else 1.0
    if gain < _GAIN:
        return f"Best: {_TITLES[single]}; both together gain nothing (modelled)."
    return f"Best: {_TITLES['gpu+npu']}, {gain:.2f} x as fast as {_TITLES[single]} (modelled)."


def _regions(regions: tuple[Region, ...]) -> Iterator[str]:
    if not regions:
        yield "The plan has no NPU region to estimate."
        return
    yield (
        f"{'NPU region':<16}{'operators':>9}{'modelled':>12}{'estimated':>12}"
        f"{'from … to':>20}{'ratio':>7}{'filled':>12}{'spilled':>12}{'uncosted':>9}"
    )
    shown = None
    for region in regions:
        head = f"{region.symbol:<16}{len(region.operators):>9}{region.predicted_us:>9.1f} µs"
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
            f"{head}{estimate.us:>9.1f} µs{f'{low:.1f} … {high:.1f}':>20}{ratio:>7}"
            f"{filled:>12,}{spilled:>12,}{profile.missing_ops:>9}"
        )
        shown = estimate
    if shown is None:
        return
    yield (
        f"Estimated: by the vendor, for the proxy {shown.proxy.name} (v{shown.proxy.htp_arch}): "
        f"{shown.proxy_why}."
    )
    yield f"Scaled {shown.scale.rule}."
    yield "Without launch; bytes of memory traffic; operators without a cost make it a lower bound."
