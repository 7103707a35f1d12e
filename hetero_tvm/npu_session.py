"""ONNX Runtime sessions on Qualcomm's NPU (or its x86 simulator), from Python.

As `python -m hetero_tvm.npu_session JOB.json` this is the worker of `npu_compiler`, which never
imports it: the vendor's libraries cost 150 MB, and their faults end the process they are in.

Requires: onnxruntime-qnn.
Ensures:  a session runs wholly on the NPU, or is not made.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import onnxruntime

from hetero_tvm.memory import peak_bytes

_PROVIDER = "QNNExecutionProvider"
# Session entries: a binary inside its model; one file for several; the one that writes the file.
EMBEDDED = {"ep.context_embed_mode": "1"}
TOGETHER = {"ep.context_embed_mode": "0", "ep.share_ep_contexts": "1"}
LAST = {**TOGETHER, "ep.stop_share_ep_contexts": "1"}
_VERBOSE = 0
_ERRORS = 3
_FAILED = re.compile(r"Validation FAILED for \d+ nodes? in OrtNodeUnit \((.*?)\)")
_REASON = re.compile(r"REASON\s*:\s*(.+)")


@functools.cache
def _devices() -> list[Any]:
    import onnxruntime_qnn

    onnxruntime.register_execution_provider_library(_PROVIDER, onnxruntime_qnn.get_library_path())
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == _PROVIDER]


def open_session(
    model: Path | bytes,
    options: Mapping[str, str],
    *,
    entries: Mapping[str, str] | None = None,
    severity: int = _ERRORS,
) -> onnxruntime.InferenceSession:
    """A session of `model` on the NPU, nothing of it on the CPU.

    Args:
        model: an ONNX or EPContext model.
        options: the provider's; `soc_model` must be among them.
        entries: further session entries.
        severity: 0 logs everything to the process's standard error, 3 errors only.
    """
    import onnxruntime_qnn

    assert "soc_model" in options, "without soc_model QNN compiles for a v68"
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = severity
    session_options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for key, value in (entries or {}).items():
        session_options.add_session_config_entry(key, value)
    provider = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **options}
    session_options.add_provider_for_devices(_devices(), provider)
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, session_options)


def compile_context(
    model: Path, result: Path, options: Mapping[str, str], entries: Mapping[str, str] = EMBEDDED
) -> tuple[dict[str, Any], onnxruntime.InferenceSession | None]:
    """Compile `model` to the EPContext model `result`, its binary embedded or as `entries` say.

    Returns: `reasons` (empty when it went well), `seconds`, `peak_bytes` of this process so far;
        and the session, None where it was refused.
    """
    begin = time.monotonic()
    reasons: list[str] = []
    session = None
    try:
        session = open_session(
            model,
            options,
            entries={"ep.context_enable": "1", "ep.context_file_path": str(result), **entries},
        )
        if not result.is_file():
            reasons = ["the compiler left no result"]
    except Exception as error:  # noqa: BLE001  whatever ONNX Runtime throws is the refusal
        result.unlink(missing_ok=True)
        reasons = _why(model, options) or [str(error).strip().splitlines()[0]]
    seconds = time.monotonic() - begin
    return {"reasons": reasons, "seconds": seconds, "peak_bytes": peak_bytes()}, session


def _why(model: Path, options: Mapping[str, str]) -> list[str]:
    """Compile once more with everything logged; the vendor's reasons for refusing."""
    with tempfile.TemporaryFile() as log:
        with _stderr_to(log), contextlib.suppress(Exception):  # it failed a moment ago, too
            open_session(model, options, severity=_VERBOSE)
        log.seek(0)
        return parse_reasons(log.read().decode(errors="replace"))


def parse_reasons(log: str) -> list[str]:
    """`<operators>: <reason>` for each node group that QNN's log at severity 0 says it refused."""
    found: dict[str, None] = {}
    ops = "?"
    for line in log.splitlines():
        if failed := _FAILED.search(line):
            ops = failed[1].strip()
        elif reason := _REASON.search(line):
            found[f"{ops}: {reason[1].strip(' .')}"] = None
    return list(found)


@contextlib.contextmanager
def _stderr_to(file: IO[bytes]) -> Iterator[None]:
    """Everything that C code writes to standard error goes to `file` meanwhile."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def work(job_path: Path) -> None:
    """Compile a job's regions one after another, a report for each; stop at the first refusal.

    Those that are compiled together have their weights in one file, which is there with the last
    of them: so are their reports.
    """
    job = json.loads(job_path.read_text())
    done: dict[str, dict[str, Any]] = {}
    sessions = []  # the common file is written from what they hold
    for key in job["keys"]:
        model, result = (job_path.with_name(f"{key}{end}.onnx") for end in ("", "_ctx"))
        is_last = key == job["keys"][-1]
        entries = (LAST if is_last else TOGETHER) if job["together"] else EMBEDDED
        report, session = compile_context(model, result, job["options"], entries)
        done[key] = report
        sessions.append(session if job["together"] else None)
        if is_last or report["reasons"] or not job["together"]:
            for name in done:
                _write_report(job_path, name, done[name])
            done = {}
        if report["reasons"]:
            return


def _write_report(job_path: Path, key: str, report: dict[str, Any]) -> None:
    partial = job_path.with_name(f"{key}.partial")
    partial.write_text(json.dumps(report))
    partial.replace(job_path.with_name(f"{key}.json"))  # appears whole


if __name__ == "__main__":
    work(Path(sys.argv[1]))
