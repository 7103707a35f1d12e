"""The text of `hetero-tvm plan`: operators, the modes side by side, NPU regions."""

from __future__ import annotations

import collections
import textwrap
from collections.abc import Iterator

from hetero_tvm.plan_regions import Region
from hetero_tvm.plan_report import MODES, PlanReport
from relay_passes.plan import OpPlan
from schedules.npu_profile import NoEstimate

_TITLES = {"gpu": "GPU only", "npu": "NPU only", "gpu+npu": "GPU + NPU"}
_WIDTH = 100
_NOTES_SHOWN = 5  # in one row


def plan_summary(report: PlanReport, *, verbose: bool) -> str:
    """What goes where and why, and what else it could have cost."""
    lines = [*_operators(report, verbose=verbose), "", *_modes(report)]
    if report.regions is not None:
        lines += ["", *_regions(report.regions), *_with_estimates(report)]
    return "\n".join(lines)


def _operators(report: PlanReport, *, verbose: bool) -> Iterator[str]:
    """Operators in groups, times in sums; refusals as numbered notes."""
    plan = report.plan
    columns = ["gpu", "npu", *(["cpu"] if plan.device_us["cpu"] else [])]
    reasons = dict.fromkeys(reason for op in plan.ops for reason in op.declined.values())
    note_of = {reason: number for number, reason in enumerate(reasons, 1)}
    groups: dict[tuple[str, str, str], list[OpPlan]] = collections.defaultdict(list)
    for op in plan.ops:
        groups[op.device, op.op, _why(op, report.devices)].append(op)
    titles = "".join(f"{f'{device.upper()} µs':>10}   " for device in columns)
    yield f"{'device':<8}{'operator':<24}{'count':>5}{titles}  why"
    for (device, name, why), ops in groups.items():
        times = "".join(_times(report, ops, column) for column in columns)
        head = f"{device:<8}{name.removeprefix('relax.'):<24}{len(ops):>5}{times}"
        yield f"{head}  {why}{_notes(ops, note_of)}"
        if verbose:
            for op in ops:
                times = "".join(_times(report, [op], column) for column in columns)
                node = report.node_of.get(op.name, op.name)
                yield f"{'':<37}{times}  {node}{_notes([op], note_of)}"
    if note_of:
        yield ""
    for reason, number in note_of.items():
        yield from textwrap.wrap(f"[{number}] {reason}", _WIDTH, subsequent_indent="    ")
    yield ""
    provenances = sorted({figure.provenance for figure in report.figures})
    yield (
        "Times are modelled: a roofline on figures of the target's spec, which are "
        + ", ".join(f"{word[0]} {word}" for word in provenances)
        + "."
    )
    if verbose:
        yield from (f"  {figure.provenance[0]} {figure.source}" for figure in report.figures)


def _why(op: OpPlan, devices: str) -> str:
    other = {"gpu": "npu", "npu": "gpu"}.get(op.device)
    if op.declined or other is None:
        verb = "declines" if len(op.declined) == 1 else "decline"
        return f"{' and '.join(device.upper() for device in op.declined)} {verb}"
    if op.cost_us[op.device] == op.cost_us[other] == 0:
        return "a view, stays with its neighbours"
    if other not in devices.split("+"):
        return "the only device asked for"
    if op.cost_us[op.device] < op.cost_us[other]:
        return "faster here"
    return "stays with its neighbours: hand-overs would cost more"


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
    used = {
        report.figure_of[op.name, device] for op in ops if (op.name, device) in report.figure_of
    }
    marks = "".join(sorted({report.figures[index].provenance[0] for index in used}))
    return f"{sum(op.cost_us[device] for op in ops):>10.1f} {marks:<2}"


def _modes(report: PlanReport) -> Iterator[str]:
    yield f"{'':<12}{'predicted':>12}{'on GPU':>11}{'on NPU':>11}{'on CPU':>11}{'hand-overs':>19}"
    for name in reversed(MODES):
        mode = report.modes[name].to_dict()
        times = "".join(f"{mode['device_us'][d] / 1e3:>8.3f} ms" for d in ("gpu", "npu", "cpu"))
        moves = f"{mode['waits']} in {mode['handover_us'] / 1e3:.3f} ms"
        yield (
            f"{_TITLES[name]:<12}{mode['predicted_us'] / 1e3:>9.3f} ms{times}{moves:>19}, "
            f"{mode['handed_over_bytes']:,} bytes"
        )
    yield "What a single device declines runs elsewhere. Bytes change device in place, uncopied."
    yield _verdict(report)


def _verdict(report: PlanReport) -> str:
    us = {name: report.modes[name].plan.predicted_us for name in MODES}
    single = min(("gpu", "npu"), key=us.__getitem__)
    if report.best != "gpu+npu":
        return f"Best: {_TITLES[report.best]}; both together gain nothing (modelled)."
    gain = us[single] / us["gpu+npu"]
    return f"Best: {_TITLES['gpu+npu']}, {gain:.2f} x as fast as {_TITLES[single]} (modelled)."


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
        )
        shown = estimate
    if shown is None:
        return
    prose = (
        f"Estimated: by the vendor (vendor-estimated), for the proxy {shown.proxy.name} "
        f"(v{shown.proxy.htp_arch}): {shown.proxy_why}.",
        f"Scaled {shown.scale.rule}.",
        "Both without launch. Filled and spilled are bytes from and to memory, as compiled for the "
        "proxy. Where operators have no cost, the estimate is a lower bound.",
    )
    for text in prose:
        yield from textwrap.wrap(text, _WIDTH)


def _with_estimates(report: PlanReport) -> Iterator[str]:
    us = report.with_estimates_us
    if us is None:
        return
    text = f"With the estimates instead of the predictions, this plan takes {us / 1e3:.3f} ms"
    if "gpu" in report.devices:
        text += f", against {report.modes['gpu'].plan.predicted_us / 1e3:.3f} ms for GPU only"
    yield from textwrap.wrap(f"{text} (vendor-estimated and modelled).", _WIDTH)
