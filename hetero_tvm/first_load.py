"""Tuned kernels on a driver that they were not proven on: checked once, at the first load.

    manifest.kernels    of each tuned one: device and driver of its proof, its hash, what it is
                        called in the artefact, and what it has to give (`kernel_values.py`)
    CACHE/checked/      one file for each kernel, device and driver: how the check came out

A process of its own (`hetero_tvm.kernel_check`) runs the artefact's kernels, so that one that
crashes or hangs is an error message too. The C API checks the same in its own process
(`runtime/src/c_api/tuned_kernels.cc`) and shares what is remembered.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_tvm import child_python
from hetero_tvm.bundle import Manifest
from hetero_tvm.config import default_cache_dir
from hetero_tvm.errors import RunFailed, TunedKernelWrong
from hetero_tvm.kernel_values import proof

if TYPE_CHECKING:
    from tvm import IRModule

    from schedules.tuned import Use

logger = logging.getLogger(__name__)

START_S = 120.0  # for the process to import TVM, on a busy machine
KERNEL_S = 60.0
_FOLDER = "checked"
# A mark of the C API before a kernel runs. Here a kernel ends another process than this: try it.
_ENDED = "its process ended while it was checked"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Here:
    """A device and its driver."""

    device: str
    driver: str


def described(uses: Sequence[Use], mod: IRModule) -> tuple[dict[str, Any], ...]:
    """What a manifest says of its kernels.

    Args:
        uses: of the build.
        mod: the scheduled program, as code is generated from it.
    """
    from tvm import tirx

    from schedules.trials import hash_of, plain

    names: dict[str, str] = {}
    if any(use.tuned for use in uses):
        for var, func in mod.functions.items():
            if isinstance(func, tirx.PrimFunc):
                bare = plain(func).without_attr("tirx.is_scheduled")
                names.setdefault(hash_of(bare), var.name_hint)
    found = []
    for use in uses:
        entry = use.to_dict()
        if use.tuned and use.pick is not None and use.func is not None:
            entry |= {
                "scheduled": use.pick.scheduled,
                "function": names[use.pick.scheduled],
                "proof": proof(plain(use.func)),
            }
        found.append(entry)
    return tuple(found)


def check_kernels(path: Path, manifest: Manifest, here: Here) -> None:
    """Check the artefact's tuned kernels, those that nobody proved on this device and driver.

    Raises:
        TunedKernelWrong: one is wrong, crashes or hangs here; remembered, as is what is right.
        RunFailed: the check itself could not be run.
    """
    tuned = [kernel for kernel in manifest.kernels if "function" in kernel]
    todo = [kernel for kernel in tuned if (kernel["device"], kernel["driver"]) != _pair(here)]
    if old := [kernel for kernel in todo if kernel.get("proof") is None]:
        logger.warning(
            "%s: %d tuned kernels were not proven on %s with driver %s, and nothing in it says "
            "what they have to give: build it again",
            *(path, len(old), here.device, here.driver),
        )
        todo = [kernel for kernel in todo if kernel.get("proof") is not None]
    if not todo:
        return
    known: dict[str, str | None] = {
        kernel["scheduled"]: _remembered(kernel, here) for kernel in todo
    }
    fresh = [kernel for kernel in todo if known[kernel["scheduled"]] is None]
    if fresh:
        logger.warning(
            "%s: %d tuned kernels are checked on %s with driver %s, which is new to them; once",
            *(path, len(fresh), here.device, here.driver),
        )
        for kernel, found in _checked(path, fresh):
            _remember(kernel, here, found)
            known[kernel["scheduled"]] = found
    for kernel in todo:
        if reason := known[kernel["scheduled"]]:
            raise TunedKernelWrong(
                f"{path}: the tuned kernel {kernel['function']} of "
                f"{', '.join(kernel['operators'])} fails on {here.device} with driver "
                f"{here.driver} ({reason}); it was proven on {kernel['device']} with "
                f"{kernel['driver']}. Build it without tuned kernels: hetero-tvm build "
                f"{manifest.model_name} --target {manifest.target} -o {path.name}, no --db"
            )


def _pair(here: Here) -> tuple[str, str]:
    return here.device, here.driver


def _file(kernel: Mapping[str, Any], here: Here) -> Path:
    text = "\n".join([kernel["scheduled"], kernel["kernel"], here.device, here.driver])
    return default_cache_dir() / _FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _remembered(kernel: Mapping[str, Any], here: Here) -> str | None:
    """Why a kernel is wrong here, empty where it is right; None where nobody looked."""
    try:
        found = json.loads(_file(kernel, here).read_text())
        reason = found["reason"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return reason if isinstance(reason, str) and reason != _ENDED else None


def _remember(kernel: Mapping[str, Any], here: Here, reason: str) -> None:
    """A disk that is full or read-only costs the same check at the next load, nothing else."""
    file = _file(kernel, here)
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    about = {"kernel": kernel["function"], **dataclasses.asdict(here), "reason": reason}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(about))
        beside.replace(file)
    except OSError as error:
        logger.warning("%s: the check of tuned kernels is not remembered: %s", file, error.strerror)


def _checked(path: Path, kernels: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """Each kernel, and why it is wrong, empty where it is right."""
    found: list[tuple[dict[str, Any], str]] = []
    while len(found) < len(kernels):
        left = kernels[len(found) :]
        answers, ended = _ask(path, left)
        found += [(kernel, answer) for kernel, answer in zip(left, answers, strict=False)]
        if len(answers) < len(left):  # the one that it was at ended it
            found.append((left[len(answers)], ended))
    return found


def _ask(path: Path, kernels: Sequence[dict[str, Any]]) -> tuple[list[str], str]:
    """Answers as far as they came, and how the process ended that gave no more."""
    command = [sys.executable, "-m", "hetero_tvm.kernel_check", str(path.resolve())]
    wanted = [{name: kernel[name] for name in ("function", "proof")} for kernel in kernels]
    limit_s = START_S + KERNEL_S * len(kernels)
    try:
        done = subprocess.run(
            command,
            input=json.dumps(wanted),
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
            env=child_python.environment(),
        )
        output, ended = done.stdout, f"its process ended by signal {-done.returncode}"
        failed = done.returncode > 0
        said = done.stderr.strip().splitlines()
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        ended, failed, said = f"no answer within {limit_s:.0f} s", False, []
    lines = output.split("\n")[:-1]  # what was cut short is no answer
    if failed:
        raise RunFailed(
            f"{path}: its tuned kernels could not be checked: {said[-1] if said else 'no reason'}"
        )
    return [json.loads(line)["reason"] for line in lines], ended
