"""What `bench` measured, as text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any

_COLUMNS = ("mean", "p50", "p90", "sd", "min", "max")


def text(data: Mapping[str, Any]) -> str:
    """For a terminal."""
    times = data["times_ms"]
    about = data["machine"]
    lines = [
        f"model    {data['model']} for {data['target']}"
        + ("  (simulated: not the chip's time)" if data["simulated"] else ""),
        f"machine  {about.get('soc', about['cpu'])}, OpenCL {about['opencl']}, {about['system']}",
        f"load     {data['load_s']:.2f} s, first run {data['first_run_ms']:.2f} ms",
        f"runs     {times['runs']} after {data['warm_up_runs']} to warm up"
        + (", of the last row below" if data["minutes"] else ""),
        "ms       " + ", ".join(f"{name} {times[name]:.3f}" for name in _COLUMNS),
        f"rate     {1e3 / times['p50']:.2f} runs/s"
        + (f", {data['length_per_s']:.1f} elements of length/s" if data["length_per_s"] else ""),
        f"memory   {data['peak_memory_bytes'] / 1e6:.0f} MB at most, artefact "
        f"{data['artefact_bytes'] / 1e6:.1f} MB",
        "thermal  " + _thermal(data["thermal"]),
    ]
    if data["llm"]:
        lines.insert(5, _llm(data["llm"]))
    if data["minutes"]:
        lines += ["", f"{'at':>8}{'runs':>8}{'mean':>10}{'p50':>10}{'p90':>10}{'sd':>9}  state"]
    for row in data["minutes"]:
        ms = row["times_ms"]
        lines.append(
            f"{row['at_s']:>6.0f} s{ms['runs']:>8}{ms['mean']:>10.3f}{ms['p50']:>10.3f}"
            f"{ms['p90']:>10.3f}{ms['sd']:>9.3f}  {state_words(row)}"
        )
    return "\n".join(lines)


def markdown(data: Mapping[str, Any]) -> str:
    """One table, as one pastes it into a report."""
    times, about = data["times_ms"], data["machine"]
    head = ["model", "target", "machine", "runs", *(f"{name} ms" for name in _COLUMNS), "memory MB"]
    row = [
        data["model"],
        data["target"] + (" (simulated)" if data["simulated"] else ""),
        about.get("soc", about["cpu"]),
        str(times["runs"]),
        *(f"{times[name]:.3f}" for name in _COLUMNS),
        f"{data['peak_memory_bytes'] / 1e6:.0f}",
    ]
    lines = [_row(head), _row(["---"] * len(head)), _row(row)]
    if data["minutes"]:
        head = ["at s", "runs", "mean ms", "p50 ms", "p90 ms", "sd ms", "state"]
        lines += ["", _row(head), _row(["---"] * len(head))]
    for minute in data["minutes"]:
        ms = minute["times_ms"]
        numbers = [f"{ms[name]:.3f}" for name in ("mean", "p50", "p90", "sd")]
        at = f"{minute['at_s']:.0f}"
        lines.append(_row([at, str(ms["runs"]), *numbers, state_words(minute)]))
    return "\n".join(lines)


def comma_separated(data: Mapping[str, Any]) -> str:
    """A row for all of it, then one for each minute."""
    file = io.StringIO()
    names = ["model", "target", "at_s", "runs", *(f"{name}_ms" for name in _COLUMNS)]
    states = ["hottest_c", "cpu_mhz", "gpu_mhz", "power_w"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*names, *states])
    everything = {"at_s": "", "times_ms": data["times_ms"], **data["thermal"]["end"]}
    for row in [everything, *data["minutes"]]:
        times = row["times_ms"]
        numbers = [f"{times[name]:.6f}" for name in _COLUMNS]
        about = ["" if row[name] is None else row[name] for name in states]
        writer.writerow(
            [data["model"], data["target"], row["at_s"], times["runs"], *numbers, *about]
        )
    return file.getvalue().rstrip("\n")


def state_words(state: Mapping[str, Any]) -> str:
    """`54 °C, CPU 2400 MHz, GPU 680 MHz, 4.1 W`, of what the system shows."""
    words = [
        (state["hottest_c"], "{:.0f} °C"),
        (state["cpu_mhz"], "CPU {:.0f} MHz"),
        (state["gpu_mhz"], "GPU {:.0f} MHz"),
        (state["power_w"], "{:.1f} W"),
    ]
    return ", ".join(word.format(value) for value, word in words if value is not None) or "-"


def _llm(llm: Mapping[str, Any]) -> str:
    decode = llm["decode_tokens_per_s"]
    said = (
        f"tokens   {llm['prompt_tokens']} of prompt at {llm['prefill_tokens_per_s']:.1f} tokens/s "
        f"(first after {llm['prefill_ms']['p50']:.2f} ms)"
    )
    return said + (f", then {decode:.2f} tokens/s" if decode else "")


def _thermal(thermal: Mapping[str, Any]) -> str:
    start, end = state_words(thermal["start"]), state_words(thermal["end"])
    if start == end == "-":
        return f"the system shows none; {thermal['loaded_s']:.0f} s of load"
    return f"from {start} to {end} in {thermal['loaded_s']:.0f} s of load"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


RENDER: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "text": text,
    "markdown": markdown,
    "csv": comma_separated,
}
