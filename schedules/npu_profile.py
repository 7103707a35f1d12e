"""Profiles that Qualcomm's compiler writes while it compiles a model, without running it.

The compiler runs in a process of its own (`python -m schedules.npu_profile JOB.json`): a crash or a
hang of it is a reason here, and its memory goes back to the system.

Requires: onnxruntime-qnn; static ONNX models, self-contained but for weights in `WEIGHTS_FILE`.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schedules.npu_trace import read_trace

WEIGHTS_FILE = "weights.bin"  # random float16, for models that need no weights of their own
_PROVIDER = "QNNExecutionProvider"
_WORKER = ("-m", "schedules.npu_profile")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """The compiler's figures for the proxy, as it prints them."""

    us: int
    low_us: int
    high_us: int
    input_fill_bytes: int
    intermediate_fill_bytes: int
    intermediate_spill_bytes: int
    output_spill_bytes: int
    missing_ops: int  # without a cost: the time is a lower bound where there are any
    # Where it was traced, by QNN's names of the nodes: shares of the time, bytes for want of room.
    node_shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    node_spills: Mapping[str, int] = dataclasses.field(default_factory=dict)


_ROWS = {  # the profile's event -> field of `Profile`
    "Simulated (Accelerator exec time us)": "us",
    "Simulated (Accelerator exec time us (lower estimate))": "low_us",
    "Simulated (Accelerator exec time us (upper estimate))": "high_us",
    "Input Fill": "input_fill_bytes",
    "Intermediate Fill": "intermediate_fill_bytes",
    "Intermediate Spill": "intermediate_spill_bytes",
    "Output Spill": "output_spill_bytes",
    "Missing Ops (Number of Ops with no Costs associated)": "missing_ops",
}


@dataclasses.dataclass(frozen=True)
class NoEstimate:
    """The compiler gave none for this model."""

    reason: str
    # The compiler's own answer, which it would give again; not what happened to its process.
    refused: bool = dataclasses.field(default=False, compare=False)


def profile_models(
    waiting: Mapping[str, bytes],
    options: Mapping[str, str],
    timeout_s: float,
    progress: Callable[[str], None],
    *,
    weight_bytes: int = 0,
    trace: bool = False,
) -> dict[str, Profile | NoEstimate]:
    """Profile every model of `waiting`; after one that ends the process, another goes on.

    Args:
        waiting: name -> ONNX model.
        options: of QNN's execution provider.
        timeout_s: for one model.
        progress: called with a line whenever a model is done.
        weight_bytes: size of `WEIGHTS_FILE` beside the models; 0 makes none.
        trace: also lay the time out to the models' nodes, see `npu_trace`.
    """
    done: dict[str, Profile | NoEstimate] = {}
    while len(done) < len(waiting):
        rest = [key for key in waiting if key not in done]
        with tempfile.TemporaryDirectory(prefix="hetero_estimate_") as scratch:
            folder = Path(scratch)
            for key in rest:
                (folder / f"{key}.onnx").write_bytes(waiting[key])
            if weight_bytes:
                _write_weights(folder / WEIGHTS_FILE, weight_bytes)
            job = {"keys": rest, "options": dict(options), "trace": trace}
            (folder / "job.json").write_text(json.dumps(job))
            process = _start(folder)
            try:
                for key in rest:
                    fault = _wait(process, folder, key, timeout_s)
                    done[key] = NoEstimate(fault) if fault else _result(folder, key)
                    progress(f"estimated {len(done)} of {len(waiting)} NPU regions")
                    if fault:
                        break
            finally:
                process.kill()
                process.wait()
    return done


def parse_profile(lines: Sequence[str]) -> Profile | None:
    """The estimate in a profile, over all its graphs; None where there is none."""
    sums: dict[str, Any] = {}
    for row in csv.DictReader(lines):
        field = _ROWS.get(row.get("Event Identifier") or "")
        if field is not None:
            sums[field] = sums.get(field, 0) + int(row["Time"])
    return Profile(**sums) if sums.keys() == set(_ROWS.values()) else None


def _write_weights(path: Path, nbytes: int) -> None:
    """The same random weights every time; equal ones the compiler would store once."""
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        while nbytes > 0:
            part = random.standard_normal(min(1 << 22, -(-nbytes // 2)), np.float32)
            (part * np.float32(1 / 64)).astype(np.float16).tofile(file)
            nbytes -= 2 * part.size


def _start(folder: Path) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join(path for path in sys.path if path)  # it imports us as we were
    with (folder / "output").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *_WORKER, str(folder / "job.json")],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,  # QNN leaves files behind where it works
            env={**os.environ, "PYTHONPATH": paths},
        )


def _wait(process: subprocess.Popen[bytes], folder: Path, key: str, timeout_s: float) -> str | None:
    """Until there is a report of `key`, then None; else what is wrong with the process."""
    report = folder / f"{key}.json"
    since = time.monotonic()
    while not report.is_file():
        code = process.poll()
        if code is not None and not report.is_file():
            return _died(code, folder)
        if time.monotonic() - since > timeout_s:
            return f"no estimate after {timeout_s:g} s"
        time.sleep(0.02)
    return None


def _died(code: int, folder: Path) -> str:
    if code < 0:
        return f"the compiler crashed ({signal.Signals(-code).name})"
    lines = (folder / "output").read_text(errors="replace").strip().splitlines()
    return f"the compiler ended with {code}: {lines[-1] if lines else 'no message'}"


def _result(folder: Path, key: str) -> Profile | NoEstimate:
    error = json.loads((folder / f"{key}.json").read_text())["error"]
    if error is not None:
        return NoEstimate(error, refused=True)
    table = folder / f"{key}.csv"
    profile = parse_profile(table.read_text().splitlines()) if table.is_file() else None
    if profile is None:
        return NoEstimate("the compiler printed no estimate", refused=True)
    nodes = folder / f"{key}.nodes.json"
    return (
        dataclasses.replace(profile, **json.loads(nodes.read_text()))
        if nodes.is_file()
        else profile
    )


def work(job_path: Path) -> None:
    """The process's side: a session for each model, a report beside each. Never runs a model."""
    import onnxruntime
    import onnxruntime_qnn

    onnxruntime.register_execution_provider_library(_PROVIDER, onnxruntime_qnn.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == _PROVIDER]
    job = json.loads(job_path.read_text())
    for key in job["keys"]:
        options = {
            "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
            **job["options"],
            "profiling_level": "optrace" if job["trace"] else "basic",
            "profiling_file_path": str(job_path.with_name(f"{key}.csv")),
        }
        session = onnxruntime.SessionOptions()
        session.log_severity_level = 3
        session.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        session.add_provider_for_devices(devices, options)
        error = None
        try:
            onnxruntime.InferenceSession(str(job_path.with_name(f"{key}.onnx")), session)
        except Exception as refusal:  # noqa: BLE001  whatever ONNX Runtime throws is the refusal
            error = (str(refusal).strip().splitlines() or ["refused without a message"])[0]
        if job["trace"]:
            _lay_out(job_path.parent, key)
        partial = job_path.with_name(f"{key}.partial")
        partial.write_text(json.dumps({"error": error}))
        partial.replace(job_path.with_name(f"{key}.json"))  # appears whole


def _lay_out(folder: Path, key: str) -> None:
    """Read what was traced of `key`, write what it comes to, and make room for the next."""
    log, schematics = folder / f"{key}_qnn.log", list(folder.glob("*_schematic.bin"))
    if log.is_file() and len(schematics) == 1:  # else there are several graphs, or none
        nodes = read_trace(log.read_bytes(), schematics[0].read_bytes())
        if nodes is not None:
            found = {
                "node_shares": {name: node.share for name, node in nodes.items()},
                "node_spills": {
                    n: node.spilled_bytes for n, node in nodes.items() if node.spilled_bytes
                },
            }
            (folder / f"{key}.nodes.json").write_text(json.dumps(found))
    for path in (log, *schematics):
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
