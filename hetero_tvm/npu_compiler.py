"""NPU regions, ahead of time: from ONNX models to what the NPU's runtime loads.

Provider "cpu" (the stand-in) takes a region's model as it is. Provider "qnn" gets a context binary
for its SoC, made by Qualcomm's compiler inside onnxruntime-qnn. That compiler runs in processes of
its own (`python -m hetero_tvm.npu_session JOB.json`): a crash or a hang of it is a message here,
and its memory goes back to the system.

Requires: static, self-contained models (`relay_passes.lower_npu`).
Ensures:  a result stands for the whole region: nothing in it falls back to the CPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from hetero_tvm import child_python
from hetero_tvm.errors import MissingPackage, RegionRejected, VendorCompilerFailed
from hetero_tvm.kept_files import KeptFiles
from relay_passes.lower_npu import NpuRegion, TensorSpec
from relay_passes.npu_onnx import OutsideWeight
from target_specs.spec import NpuSpec

_WORKER = ("-m", "hetero_tvm.npu_session")
_MISSING = "onnxruntime-qnn is not installed; run: pip install 'hetero-tvm[qnn]'"


class NpuRegionRejected(RegionRejected):
    """The vendor's compiler did not take a region although our rules did."""

    def __init__(self, symbol: str, reasons: Sequence[str], ops: Sequence[str] = ()) -> None:
        self.symbol = symbol
        self.reasons = tuple(reasons)
        self.ops = tuple(ops)
        super().__init__(
            f"{symbol}: the NPU's compiler rejects it: {'; '.join(reasons)}. Build with "
            "--keep-going to leave its operators to the GPU, and report this with the model"
        )


class NpuCompilerFailed(VendorCompilerFailed):
    """The vendor's compiler crashed, was killed, or hung: it said nothing about the region."""

    def __init__(self, symbol: str, what: str) -> None:
        self.symbol = symbol
        super().__init__(
            f"{symbol}: the NPU's compiler failed: {what}. Try again with more memory free; "
            "--devices gpu builds without it"
        )


@dataclasses.dataclass(frozen=True)
class CompiledRegion:
    """A region as the runtime loads it; `onnx` is an EPContext model where it was compiled."""

    symbol: str
    onnx: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    compile_seconds: float = 0.0  # 0 for the stand-in and for what the cache had
    peak_bytes: int = 0  # of the process that compiled it, so far
    cached: bool = False
    names: tuple[str, ...] = ()  # the operators in it, as the plan calls them
    weight_bytes: int = 0  # of the constants in it
    outside: tuple[OutsideWeight, ...] = ()  # of those, what lies in the artefact's weight part
    others: tuple[bytes, ...] = ()  # as `onnx`, for further targets of the artefact
    substitute: bytes | None = None  # does the same on a CPU; None: there is none


@dataclasses.dataclass(frozen=True)
class Together:
    """Regions with one binary, in which what they have in common is once."""

    regions: tuple[CompiledRegion, ...]  # of each, `onnx` refers to the files
    files: Mapping[str, bytes]  # by name


def session_options(npu: NpuSpec) -> dict[str, str]:
    """The provider's options with which a compiled region must be loaded and run."""
    if npu.provider != "qnn":
        return {}
    return {"soc_model": str(npu.soc_model)}


def compile_regions(
    regions: Sequence[NpuRegion],
    npu: NpuSpec,
    *,
    cache_dir: Path | None,
    jobs: int = 2,
    progress: Callable[[str], None] = lambda line: None,
    timeout_s: float = 900.0,
) -> tuple[CompiledRegion, ...]:
    """Compile every region for `npu`; results are in the order of `regions`.

    Args:
        regions: what `lower_npu` gave.
        npu: the NPU; its provider decides what is made.
        cache_dir: where compiled regions are kept between builds; None keeps none.
        jobs: compiler processes at a time. Each takes up to 2.5 GB.
        progress: called with a line whenever a region is done.
        timeout_s: for one region, after which its compiler is ended.

    Raises:
        EnvironmentProblem: onnxruntime-qnn is not installed.
        NpuRegionRejected: the vendor's compiler refuses a region.
        NpuCompilerFailed: it crashes on a region, or hangs in it.
    """
    if npu.provider != "qnn":
        return uncompiled(regions)
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        raise MissingPackage(_MISSING)
    keys = {region.symbol: _key([region.onnx], npu) for region in regions}
    done: dict[str, CompiledRegion] = {}  # by key: equal regions are compiled once
    waiting: dict[str, NpuRegion] = {}
    for region in regions:
        key = keys[region.symbol]
        binary = _kept(cache_dir).read(key)
        if binary is not None:
            done[key] = _finished(region, binary, cached=True)
        elif key not in done:
            waiting.setdefault(key, region)
    if waiting:

        def keep(key: str, compiled: CompiledRegion) -> None:
            # At once: a build that is ended goes on from here the next time.
            _kept(cache_dir).write(key, compiled.onnx)

        found, _ = _compile(waiting, npu, jobs, timeout_s, progress, keep=keep)
        done |= found
    return tuple(
        dataclasses.replace(done[keys[region.symbol]], symbol=region.symbol) for region in regions
    )


def uncompiled(regions: Sequence[NpuRegion]) -> tuple[CompiledRegion, ...]:
    """`regions` as they are, for `compile_together` once all of them are there."""
    return tuple(_finished(region, region.onnx) for region in regions)


def compile_together(
    regions: Sequence[CompiledRegion],
    npu: NpuSpec,
    *,
    cache_dir: Path | None,
    progress: Callable[[str], None] = lambda line: None,
    timeout_s: float = 900.0,
) -> Together:
    """Compile `regions`, which are `uncompiled`, so that equal weights are stored and loaded once.

    In one process, one after another: that is how onnxruntime-qnn does it. Qualcomm's x86 simulator
    computes with the result in that process, and ends any other process that loads it ("Shared
    weights buffer isn't supported on this platform"): it is for devices.

    Raises:
        as `compile_regions`; `timeout_s` is for each region.
    """
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        raise MissingPackage(_MISSING)
    key = _key([region.onnx for region in regions], npu, together=True)
    kept = _kept(cache_dir).read(key)
    if kept is not None:
        files = _unpacked(kept)
        contexts = {region.symbol: files.pop(region.symbol) for region in regions}
        done = tuple(
            dataclasses.replace(region, onnx=contexts[region.symbol], cached=True)
            for region in regions
        )
        return Together(done, files)
    progress(f"compiling {len(regions)} regions together, for one set of weights")
    waiting = {
        region.symbol: NpuRegion(
            region.symbol, region.onnx, region.inputs, region.outputs, (), region.names
        )
        for region in regions
    }
    found, files = _compile(waiting, npu, 1, timeout_s * len(waiting), progress, together=True)
    _kept(cache_dir).write(key, _packed({**files, **{s: found[s].onnx for s in found}}))
    done = tuple(
        dataclasses.replace(found[region.symbol], weight_bytes=region.weight_bytes)
        for region in regions
    )
    return Together(done, files)


def _finished(region: NpuRegion, binary: bytes, **facts: Any) -> CompiledRegion:
    return CompiledRegion(
        region.symbol,
        binary,
        region.inputs,
        region.outputs,
        names=region.names,
        weight_bytes=region.weight_bytes,
        outside=region.outside,
        **facts,
    )


def _compile_options(npu: NpuSpec) -> dict[str, str]:
    # soc_model: without it QNN takes a v68 with half the on-chip memory.
    return {**session_options(npu), "htp_graph_finalization_optimization_mode": "3"}


# --- cache -------------------------------------------------------------------------------------


def _key(models: Sequence[bytes], npu: NpuSpec, *, together: bool = False) -> str:
    versions = [importlib.metadata.version(p) for p in ("onnxruntime", "onnxruntime-qnn")]
    what = [versions, _compile_options(npu), *(["together"] if together else [])]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode() + b"\0")
    for model in models:
        digest.update(hashlib.sha256(model).digest() if together else model)
    return digest.hexdigest()


def _packed(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def _unpacked(packed: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _kept(cache_dir: Path | None) -> KeptFiles:
    return KeptFiles(None if cache_dir is None else Path(cache_dir) / "npu")


# --- the parent's side -------------------------------------------------------------------------


@dataclasses.dataclass
class _Job:
    """One compiler process and the regions it was given, in order."""

    keys: list[str]
    folder: Path
    process: subprocess.Popen[bytes]
    since: float  # when the region at work began
    finished: int = 0


def _compile(
    waiting: dict[str, NpuRegion],
    npu: NpuSpec,
    jobs: int,
    timeout_s: float,
    progress: Callable[[str], None],
    *,
    together: bool = False,
    keep: Callable[[str, CompiledRegion], None] = lambda key, compiled: None,
) -> tuple[dict[str, CompiledRegion], dict[str, bytes]]:
    """Compile `waiting` (by key) in up to `jobs` processes; and the files that they refer to.

    `keep` is told of each as soon as it is done.
    """
    done: dict[str, CompiledRegion] = {}
    with tempfile.TemporaryDirectory(prefix="hetero_npu_") as scratch:
        running = [
            _start(
                {key: waiting[key].onnx for key in keys},
                npu,
                Path(scratch) / str(index),
                together=together,
            )
            for index, keys in enumerate(_shares(waiting, jobs))
        ]
        try:
            while any(job.finished < len(job.keys) for job in running):
                for job in running:
                    for key, compiled in _collect(job, waiting, timeout_s):
                        done[key] = compiled
                        keep(key, compiled)
                        progress(f"{compiled.symbol} compiled ({len(done)} of {len(waiting)})")
                time.sleep(0.02)
        finally:
            for job in running:
                if job.process.poll() is None and job.finished < len(job.keys):
                    job.process.kill()
                job.process.wait()
        names = {name for region in done.values() for name in context_files(region.onnx)}
        files = {name: (running[0].folder / name).read_bytes() for name in sorted(names)}
    return done, files


def context_files(model: bytes) -> set[str]:
    """Names of the files in which the EPContext model `model` has its binaries; none: inside."""
    nodes = onnx.ModelProto.FromString(model).graph.node
    places = [{each.name: each for each in node.attribute} for node in nodes]
    return {place["ep_cache_context"].s.decode() for place in places if not place["embed_mode"].i}


def _shares(waiting: dict[str, NpuRegion], jobs: int) -> list[list[str]]:
    """Deal the regions out, the largest first, each to the process with the least so far."""
    shares: list[list[str]] = [[] for _ in range(max(1, min(jobs, len(waiting))))]
    sizes = [0] * len(shares)
    for key in sorted(waiting, key=lambda key: -len(waiting[key].onnx)):
        least = sizes.index(min(sizes))
        shares[least].append(key)
        sizes[least] += len(waiting[key].onnx)
    return shares


def _start(
    models: Mapping[str, bytes], npu: NpuSpec, folder: Path, *, together: bool = False
) -> _Job:
    folder.mkdir()
    for key, model in models.items():
        (folder / f"{key}.onnx").write_bytes(model)
    job = folder / "job.json"
    what = {"keys": list(models), "options": _compile_options(npu), "together": together}
    job.write_text(json.dumps(what))
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *_WORKER, str(job)],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,  # QNN leaves files behind where it works
            env=child_python.environment(),
        )
    return _Job(list(models), folder, process, time.monotonic())


def _collect(
    job: _Job, waiting: dict[str, NpuRegion], timeout_s: float
) -> Iterator[tuple[str, CompiledRegion]]:
    """Yield (key, result) of what `job` has finished since; raise when it failed."""
    ended = job.process.poll()
    while job.finished < len(job.keys):
        key = job.keys[job.finished]
        region = waiting[key]
        report_path = job.folder / f"{key}.json"
        if not report_path.is_file():
            if ended is not None:
                raise NpuCompilerFailed(region.symbol, _died(ended, job.folder))
            if time.monotonic() - job.since > timeout_s:
                raise NpuCompilerFailed(region.symbol, f"no result after {timeout_s:g} s")
            return
        report = json.loads(report_path.read_text())
        if report["reasons"]:
            raise NpuRegionRejected(region.symbol, report["reasons"], region.ops)
        binary = (job.folder / f"{key}_ctx.onnx").read_bytes()
        facts = {"compile_seconds": report["seconds"], "peak_bytes": report["peak_bytes"]}
        yield key, _finished(region, binary, **facts)
        job.finished += 1
        job.since = time.monotonic()


def _died(code: int, folder: Path) -> str:
    """How a compiler process ended that left no report."""
    if code < 0:
        return f"the compiler crashed ({signal.Signals(-code).name})"
    lines = (folder / "output").read_text(errors="replace").strip().splitlines()
    return f"the compiler ended with {code}: {lines[-1] if lines else 'no message'}"
