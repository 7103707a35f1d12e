"""What verbs print for people: plain text, narrow enough for a terminal."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

from relay_passes.plan_reasons import early_reason
from target_specs.loader import aliases, list_specs, load_spec

if TYPE_CHECKING:
    from hetero_tvm.compiler import BuildResult
    from hetero_tvm.memory_forecast import PlanMemory
    from relay_passes.plan import OpPlan

MODE_TITLES = {"gpu": "GPU only", "npu": "NPU only", "layer": "layer level", "split": "split"}
_NODES_SHOWN = 3  # examples per row, unless -v


def targets() -> list[dict[str, Any]]:
    """Every target as plain data: name, alias, SoC, HTP architecture, GPU, provenance."""
    rows = []
    for name in list_specs():
        spec = load_spec(name)
        rows.append(
            {
                "name": name,
                "aliases": [alias for alias, stands_for in aliases().items() if stands_for == name],
                "soc": spec.soc,
                "htp_arch": spec.npu.htp_arch,
                "gpu": spec.gpu.name,
                "provenance": spec.provenance,
            }
        )
    return rows


def targets_table(rows: list[dict[str, Any]]) -> str:
    """`rows` of `targets` as a table."""
    lines = [f"{'target':<28}{'SoC':<26}{'HTP':<6}{'GPU':<22}figures are"]
    for row in rows:
        arch = f"v{row['htp_arch']}" if row["htp_arch"] else "-"
        lines.append(
            f"{row['name']:<28}{row['soc']:<26}{arch:<6}{row['gpu']:<22}{row['provenance']}"
        )
        lines += [f"  {alias} stands for {row['name']}" for alias in row["aliases"]]
    return "\n".join(lines)


def build_summary(result: BuildResult, *, verbose: bool) -> str:
    """Which operator went where and why, what was refused, and what it cost to build."""
    plan, node_of = result.plan, result.node_of
    total = sum(plan.macs.values()) or 1
    lines = [f"{'device':<8}{'operators':>10}{'MACs':>16}{'share':>8}"]
    for device in ("npu", "gpu", "gpu+npu", "cpu"):
        ops = [op for op in plan.ops if op.device == device]
        macs = sum(op.macs for op in ops)
        lines.append(f"{device:<8}{len(ops):>10}{macs:>16,}{macs / total:>8.1%}")
    shares = ", ".join(f"{d.upper()} {plan.macs[d] / total:.1%}" for d in ("npu", "gpu", "cpu"))
    lines += [f"MACs by device, parts of split operators included: {shares}", ""]
    groups: dict[tuple[str, str, str], list[OpPlan]] = collections.defaultdict(list)
    for op in plan.ops:
        groups[op.device, op.op, _kind_of_reason(op) + early_reason(op.early)].append(op)
    lines.append(f"{'device':<8}{'operator':<24}{'count':>5}  why")
    for (device, name, kind), ops in groups.items():
        why = kind.format(**_sums(ops))
        lines.append(f"{device:<8}{name.removeprefix('relax.'):<24}{len(ops):>5}  {why}")
        if verbose:
            lines += [f"{'':<15}{node_of.get(op.name, op.name)}: {op.reason}" for op in ops]
    refused: dict[tuple[str, str, str], list[str]] = collections.defaultdict(list)
    for refusal in plan.refused:
        node = node_of.get(refusal["name"], refusal["name"])
        refused[refusal["device"], refusal["op"], refusal["reason"]].append(node)
    if refused:
        lines += ["", "refused:"]
        for (device, kind, reason), nodes in refused.items():
            shown = ", ".join(nodes if verbose else nodes[:_NODES_SHOWN])
            more = len(nodes) - _NODES_SHOWN
            lines.append(f"  {device}: {kind.removeprefix('relax.')}: {reason}")
            lines.append(
                f"       {shown}" + (f" and {more} more" if more > 0 and not verbose else "")
            )
    against = ", ".join(
        f"{MODE_TITLES[name]} {us / 1e3:.2f} ms" for name, us in plan.alternatives_us.items()
    )
    lines += [
        "",
        f"predicted {plan.predicted_us / 1e3:.2f} ms a run (modelled, from the target's spec)"
        + (f"; {against}" if against else ""),
    ]
    if result.memory is not None:
        lines += ["", *memory_lines(result.memory), ""]
    lines += _lengths(result)
    lines += _kernels(result, verbose=verbose)
    if result.path is not None and result.manifest is not None:
        size = result.path.stat().st_size / 1e6
        seconds = sum(result.seconds.values())
        lines.append(
            f"wrote {result.path} ({size:.1f} MB, {result.manifest.npu_regions} NPU regions) "
            f"in {seconds:.1f} s, peak memory {result.peak_memory_bytes / 1e6:.0f} MB"
        )
    return "\n".join(lines)


def memory_lines(memory: PlanMemory) -> list[str]:
    """What a plan needs on each device, and to be built and loaded."""
    lines = [f"{'memory':<8}{'weights MB':>12}{'activations MB':>16}"]
    for device, need in memory.devices.items():
        row = f"{device:<8}{need.weights / 1e6:>12.2f}{need.activations / 1e6:>16.2f}"
        if device == "npu":
            window = memory.npu_window
            limit = f", of {window / 1e6:.0f} MB that it can address" if window is not None else ""
            row += (
                f"  {memory.npu_regions} region{'s' if memory.npu_regions != 1 else ''}, "
                f"the largest {memory.npu_largest_region / 1e6:.2f} MB{limit}"
            )
        lines.append(row)
    return [
        *lines,
        f"{'together':<8}{memory.weights / 1e6:>12.2f}{memory.activations / 1e6:>16.2f}"
        "  each weight once; activations are in one memory",
        f"building will take about {memory.build / 1e9:.1f} GB, loading about "
        f"{memory.load / 1e9:.1f} GB (estimated from builds of other models)",
    ]


def _lengths(result: BuildResult) -> list[str]:
    """Every length's plan in a row, and what is done about other lengths."""
    if not result.variants:
        return []
    lines = ["", f"{'length':>8}{'predicted':>14}{'NPU regions':>13}{'NPU':>8}{'GPU':>8}{'CPU':>8}"]
    for length, plan in result.variants.items():
        total = sum(plan.macs.values()) or 1
        shares = "".join(f"{plan.macs[d] / total:>8.1%}" for d in ("npu", "gpu", "cpu"))
        milliseconds = f"{plan.predicted_us / 1e3:.2f} ms"
        lines.append(f"{length:>8}{milliseconds:>14}{plan.regions:>13}{shares}")
    lines.append(f"above, the plan for length {max(result.variants)}")
    if result.chosen is not None:
        from hetero_tvm.report_between import table  # loads the compiler

        lines += ["", table(result.chosen)]
    if result.lengths is not None:
        lines.append(f"filling up to a built length: {result.lengths.padding_words}")
        lines.append(f"cutting into built lengths: {result.lengths.chunking_words}")
    return lines


def _kernels(result: BuildResult, *, verbose: bool) -> list[str]:
    """With a database: which kernels use a record; with -v also why the others do not."""
    if not result.kernels:
        return []
    tuned = [use for use in result.kernels if use.tuned]
    lines = ["", f"{len(tuned)} of {len(result.kernels)} GPU kernels are tuned"]
    for use in result.kernels:
        if use.tuned or verbose:
            names = ", ".join(result.node_of.get(op, op) for op in use.ops[:_NODES_SHOWN])
            schedule = "tuned" if use.tuned else "default"
            lines.append(f"  {use.key}  {schedule:<8}{use.why}: {names or 'layout of a tensor'}")
    others = collections.Counter(use.why for use in result.kernels if not use.tuned)
    if not verbose:
        lines += [f"  {count} by default: {why}" for why, count in others.items()]
    return lines


def _kind_of_reason(op: OpPlan) -> str:
    """Reasons that differ only in their numbers are one row, a template; `-v` shows each one's."""
    if op.split is not None:
        return (
            f"{op.split.kind} split: {{part_npu}} µs on the NPU beside {{part_gpu}} µs on the GPU, "
            "alone {npu} µs and {gpu} µs"
        )
    other = {"gpu": "npu", "npu": "gpu"}.get(op.device)
    if other is None or other in op.declined:
        reasons = (f"the {d.upper()} declines: {why}" for d, why in op.declined.items())
        return "; ".join(reasons).replace("{", "{{").replace("}", "}}")
    if op.cost_us[op.device] == op.cost_us[other] == 0:
        return "a view: stays with its neighbours"
    mine, theirs = f"{{{op.device}}}", f"{{{other}}}"
    against = f"{mine} µs against {theirs} µs on the {other.upper()}"
    if op.cost_us[op.device] < op.cost_us[other]:
        return against
    return f"{against}, which does other work, or would have to be waited for"


def _sums(ops: list[OpPlan]) -> dict[str, str]:
    alone = {d: f"{sum(op.cost_us.get(d, 0.0) for op in ops):.0f}" for d in ("gpu", "npu", "cpu")}
    parts = {f"part_{d}": f"{sum(op.part_us(d) for op in ops):.0f}" for d in ("gpu", "npu")}
    return {**alone, **parts}
