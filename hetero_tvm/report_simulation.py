"""The text of `hetero-tvm simulate`: four modes side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from hetero_tvm.simulation import Conditions, FolderReport, LlmReport, ModelReport, Pass

_TITLES = {"gpu": "GPU only", "npu": "NPU only", "layer": "layer level", "split": "split"}
_WIDTH = 100


def llm_summary(report: LlmReport) -> str:
    """Tokens per second of every mode, and what the devices did."""
    llm = report.llm
    lines = [
        f"{llm.name} (W{llm.weight_bits}A16) on {report.target}: "
        f"prompt {report.prompt} tokens, {report.decode} generated, all simulated",
        "",
        *_rates(report, {m: (p["prefill"].us, p["decode"].us) for m, p in report.modes.items()}),
    ]
    for phase in ("prefill", "decode"):
        lines += ["", f"one pass of {phase}", _HEAD]
        lines += [_row(mode, passes[phase]) for mode, passes in report.modes.items()]
        lines += _frames({mode: passes[phase] for mode, passes in report.modes.items()})
    compiles = max(passes["prefill"].compile_us for passes in report.modes.values())
    if compiles:
        lines += ["", f"Prefill holds {compiles / 1e3:.0f} ms of compiling NPU graphs, once."]
    lines += ["", *_verdict(report), *_closing(report.conditions, report.figures)]
    return "\n".join(lines)


def lengths_summary(reports: Sequence[LlmReport]) -> str:
    """Tokens a second of every mode, over the length of the prompt."""
    first = reports[0]
    lines = [
        f"{first.llm.name} (W{first.llm.weight_bits}A16) on {first.target}: every length that the "
        "NPU has graphs for, all simulated"
    ]
    for phase in ("prefill", "decode"):
        lines += [
            "",
            f"{phase}, tokens/s".ljust(20) + "".join(f"{_TITLES[m]:>13}" for m in first.modes),
        ]
        for report in reports:
            rates = (report.tokens_per_s(mode, phase) for mode in report.modes)
            lines.append(
                f"{report.prompt:>7} tokens".ljust(20) + "".join(f"{r:>13.2f}" for r in rates)
            )
    return "\n".join([*lines, "", *_closing(first.conditions, first.figures)])


def folder_summary(report: FolderReport) -> str:
    """The same of an ONNX language model, and a pass of each of its steps."""
    chunks = " + ".join(
        f"{count} x {rows}" if count > 1 else str(rows)
        for rows, count in sorted(report.chunks.items(), reverse=True)
    )
    lines = [
        f"{report.model.name or report.model} on {report.target}: prompt {report.prompt} tokens in "
        f"chunks of {chunks}, {report.decode} generated, all simulated",
        "",
        *_rates(report, {m: (report.prefill_us(m), report.decode_us(m)) for m in report.modes}),
    ]
    for rows in sorted({*report.chunks, report.decode_step}):
        passes = {mode: steps[rows] for mode, steps in report.modes.items()}
        lines += ["", f"one pass of {rows} new token{'s' if rows > 1 else ''}", _HEAD]
        lines += [_row(mode, done) for mode, done in passes.items()]
        lines += _frames(passes)
    lines += ["", *_verdict(report), *_closing(report.conditions, report.figures)]
    return "\n".join(lines)


def _rates(
    report: LlmReport | FolderReport, us: Mapping[str, tuple[float, float]]
) -> Iterator[str]:
    """A row per mode; `us`: of the prompt, and of one token after it."""
    yield f"{'':<13}{'prefill':>16}{'decode':>16}{'first token':>14}{'all':>12}"
    for mode, (prompt_us, token_us) in us.items():
        prefill, decode = (report.tokens_per_s(mode, phase) for phase in ("prefill", "decode"))
        first, each = prompt_us / 1e6, token_us / 1e6
        yield (
            f"{_TITLES[mode]:<13}{prefill:>9.1f} token/s{decode:>9.2f} token/s{first:>12.3f} s"
            f"{first + report.decode * each:>10.2f} s"
        )


def model_summary(report: ModelReport) -> str:
    """One pass of an ONNX model in every mode."""
    lines = [f"{report.model.name} on {report.target}: one pass, simulated", "", _HEAD]
    lines += [_row(mode, done) for mode, done in report.modes.items()]
    lines += _frames(report.modes)
    lines += ["", *_closing(report.conditions, report.figures)]
    return "\n".join(lines)


_HEAD = (
    f"{'':<13}{'time':>13}{'planned':>13}{'GPU busy':>9}{'NPU busy':>9}"
    f"{'waits':>6}{'memory':>10}  operators"
)


def _row(mode: str, done: Pass) -> str:
    run = done.run
    busy = {device: f"{us / run.total_us:.0%}" for device, us in run.busy_us.items()}
    placed = {"gpu": "GPU", "npu": "NPU", "cpu": "CPU", "gpu+npu": "both"}
    counts = ", ".join(
        f"{done.operators[device]} {name}"
        for device, name in placed.items()
        if done.operators.get(device)
    )
    return (
        f"{_TITLES[mode]:<13}{done.us / 1e3:>10.3f} ms{done.planned_us / 1e3:>10.3f} ms"
        f"{busy['gpu']:>9}{busy['npu']:>9}{run.waits // done.repeats:>6}"
        f"{run.nbytes / done.repeats / 1e9:>7.3f} GB  {counts}"
    )


def _frames(passes: Mapping[str, Pass]) -> Iterator[str]:
    """What the renderer noticed."""
    for mode, done in passes.items():
        frames = done.run.frames
        if frames is None:
            continue
        slower = (done.us - done.compile_us) / done.alone_us
        yield (
            f"{_TITLES[mode]:<13}{frames.missed} of {frames.count} frames missed, ready after "
            f"{frames.mean_us / 1e3:.1f} ms, at worst {frames.worst_us / 1e3:.1f} ms; "
            f"the model {slower:.2f} x as slow as alone"
        )


def _verdict(report: LlmReport | FolderReport) -> Iterator[str]:
    for phase in ("prefill", "decode"):
        rate = {mode: report.tokens_per_s(mode, phase) for mode in report.modes}
        single = max(("gpu", "npu"), key=rate.__getitem__)
        yield (
            f"{phase.capitalize()}: split is {rate['split'] / rate[single]:.2f} x as fast as "
            f"{_TITLES[single]}, {rate['split'] / rate['layer']:.2f} x as fast as layer level."
        )


def _closing(conditions: Conditions, figures: Mapping[str, int]) -> Iterator[str]:
    known = ", ".join(f"{count} {kind}" for kind, count in figures.items())
    waits = "a predicted sleep and a poll" if conditions.fast_sync else "the drivers' own waits"
    text = (
        f"Simulated by discrete events; nothing was measured. Figures of the target: {known}. "
        f"Devices wait for each other by {waits}."
    )
    yield from textwrap.wrap(text, _WIDTH)
