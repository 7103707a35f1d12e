"""One deployment: look, push what is missing, try every part, and only then install.

Everything up to the last step leaves the device as it was but for files in its store; whatever ends
it early, the same call goes on from there.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hetero_tvm import llm_check, reference, signing, substitutes
from hetero_tvm.bundle import Manifest, read_manifest
from hetero_tvm.device_facts import DeviceFacts, read_facts
from hetero_tvm.device_fit import check_fits, on_device
from hetero_tvm.device_libraries import libraries_for
from hetero_tvm.device_store import DeviceStore, StoredFile, check_name
from hetero_tvm.errors import (
    AnotherModel,
    BadInput,
    DeviceFailure,
    DeviceLacks,
    StorageFull,
)
from hetero_tvm.output_error import OutputError
from hetero_tvm.part_tests import PartTest, part_tests
from hetero_tvm.progress import Progress
from hetero_tvm.remote import RemoteModel, Session
from hetero_tvm.remote_llm import RemoteLlm
from hetero_tvm.run import default_tolerance
from hetero_tvm.start_script import start_script
from hetero_tvm.substitutes import Unfit
from hetero_tvm.transports.transport import Transport

logger = logging.getLogger(__name__)

_SPARE_BYTES = 16 << 20  # what a device keeps for itself
# What the device's program adds to an artefact that could; see c_api/machine.cc.
_CPU_ADVICE = "; or run it on the CPU with --allow-fallback (HETERO_ALLOW_FALLBACK=1)"
_NEXT_STEP = {
    "cpu": "the host code does not run there",
    "gpu": "the GPU part does not run there; see `hetero-tvm devices --to …` for its driver",
    "npu": "the NPU part does not run there; see `hetero-tvm devices --to …` for its driver",
}


class PartsFailed(DeviceFailure):
    """A part of the device, or the model on it, did not run or computed something else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wish:
    """What to deploy, and how it is called there."""

    artefact: Path
    name: str
    cache_dir: Path
    fallbacks: tuple[Path, ...] = ()  # in its place where it cannot run there, in this order
    use_substitutes: bool = False  # the artefact's own, where NPU or OpenCL is missing or fails
    sign: Path | None = None  # private key for tests, where the device accepts only signed ones
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartResult:
    """How one part did. `held` None: it could not be tried, for the reason in `words`."""

    part: str
    held: bool | None
    words: str
    errors: tuple[OutputError, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deployed:
    """What a deployment did."""

    where: str
    command: str  # that runs the model there
    parts: tuple[PartResult, ...]
    pushed_bytes: int
    there_bytes: int  # of what it needs, pushed now or before
    footprint: Mapping[str, int]  # file -> bytes, without the model
    artefact: str  # that was installed
    run_here: str = "run"  # the verb for it, on this machine
    seconds: Mapping[str, float]
    instead_of: tuple[tuple[str, str], ...] = ()  # artefacts that cannot run there, each with why
    no_npu: str | None = None  # why the CPU does the NPU's part there
    no_opencl: str | None = None  # why it computes all of the model

    def to_dict(self) -> dict[str, Any]:
        """As plain data, the `--json` of the verb."""
        return {
            **dataclasses.asdict(self),
            "footprint_bytes": sum(self.footprint.values()),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def deploy(wish: Wish, transport: Transport, root: str | None, progress: Progress) -> Deployed:
    """Bring the artefact to the device, try it, install it; or the first fallback that runs there.

    Raises:
        BadInput: a fallback is of another model; and as below.
        DeviceFailure, EnvironmentProblem: as below, of the last that was tried.
    """
    _check_same_model(wish)
    refused: list[tuple[str, str]] = []
    for artefact in (wish.artefact, *wish.fallbacks):
        try:
            done = _deploy(
                dataclasses.replace(wish, artefact=artefact), transport, root, progress, refused
            )
            return dataclasses.replace(done, instead_of=tuple(refused))
        except (DeviceLacks, PartsFailed) as error:
            if artefact == (wish.artefact, *wish.fallbacks)[-1]:
                raise
            refused.append((str(artefact), str(error)))
            progress.note(f"{artefact} cannot run there: {error}")
    raise AssertionError("the last one is returned or raises")


def _check_same_model(wish: Wish) -> None:
    """A fallback computes what the artefact computes."""
    if not wish.fallbacks:
        return
    wanted = read_manifest(wish.artefact)
    for path in wish.fallbacks:
        found = read_manifest(path)
        if found.model_sha256 != wanted.model_sha256 or found.inputs != wanted.inputs:
            raise AnotherModel(
                f"--allow-fallback {path}: is of {found.model_name}, {wish.artefact} is of "
                f"{wanted.model_name}; build both of one model, with the same --input"
            )


def _deploy(
    wish: Wish,
    transport: Transport,
    root: str | None,
    progress: Progress,
    refused: Sequence[tuple[str, str]],
) -> Deployed:
    """Bring the artefact to the device, try it, install it. `refused`: what it stands in for.

    Raises:
        BadInput: the artefact does not fit the device.
        DeviceFailure: the device is not reached, is full, or fails a test. Nothing is installed.
        EnvironmentProblem: a library for it is not installed here.
    """
    check_name(wish.name)
    manifest = read_manifest(wish.artefact)
    clock, seconds = time.perf_counter(), dict[str, float]()

    def step(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        if last := next(reversed(seconds), None):
            seconds[last] = now - clock
        clock = now
        seconds[name] = 0.0
        progress.step(name)

    progress.begin({"look": 1.0, "prepare": 5.0, "push": 10.0, "test": 5.0, "install": 1.0})
    step("look")
    store = DeviceStore(transport, root)
    facts = read_facts(transport, store.root)
    check_fits(wish.artefact, manifest, facts)
    manifest = on_device(manifest, facts)
    environment = {**transport.environment(), **wish.environment}
    unfit = substitutes.by_facts(
        wish.artefact, manifest, facts, environment, allowed=wish.use_substitutes
    )
    trusted = store.trusted_keys()
    if trusted:
        _check_signed(wish, facts, trusted)
    step("prepare")
    with tempfile.TemporaryDirectory(prefix="hetero-deploy-") as folder:
        libraries = [
            (library, StoredFile.of(library.path, library.name))
            for library in libraries_for(manifest, wish.cache_dir)
        ]
        artefact = StoredFile.of(wish.artefact)
        tests = part_tests(manifest, wish.cache_dir)
        if trusted:
            tests = [_signed(test, wish.sign, Path(folder)) for test in tests]
        built = [StoredFile.of(test.path) for test in tests if test.path is not None]
        inputs = _input_files(manifest, Path(folder))
        files = [*(file for _, file in libraries), *built, *inputs, artefact]
        step("push")
        pushed = _push(store, files, facts, progress)
        step("test")
        prompt = (
            None if manifest.llm is None else list((manifest.reference or {}).get("prompt", ()))
        )
        while True:
            for line in unfit.lines():
                progress.note(f"on {transport.where} {line}")
            everything = {**environment, **unfit.environment()}
            trial = store.install(
                wish.name,
                start_script(libraries, artefact, inputs, everything, prompt),
                files,
                artefact=artefact.sha256,
                file=artefact.name,
                model=manifest.model_name,
                target=manifest.target,
                instead_of=[StoredFile.of(Path(path)).sha256 for path, _ in refused],
            )
            parts = _try_parts(store, trial, unfit.tests(tests), manifest, artefact)
            failed = [part for part in parts if part.held is False]
            if not failed:
                break
            less = (
                unfit.after(_reasons(failed, transport.where), manifest)
                if wish.use_substitutes
                else None
            )
            if less is None:
                raise PartsFailed(_words_of_failure(transport, failed, manifest))
            unfit = less
        step("install")
        command = store.commit(wish.name)
        store.collect()
    seconds[next(reversed(seconds))] = time.perf_counter() - clock
    return Deployed(
        where=transport.where,
        command=command,
        parts=tuple(parts),
        pushed_bytes=pushed,
        there_bytes=sum(file.size for file in files),
        footprint={file.name: file.size for _, file in libraries},
        artefact=str(wish.artefact),
        run_here="run" if manifest.llm is None else "generate",
        seconds=seconds,
        no_npu=unfit.npu,
        no_opencl=unfit.opencl,
    )


def _check_signed(wish: Wish, facts: DeviceFacts, trusted: str) -> None:
    """Say before anything travels what the device's program would say after it."""
    with tempfile.TemporaryDirectory(prefix="hetero-deploy-") as folder:
        keys = Path(folder) / "trusted_keys"
        keys.write_text(trusted)
        try:
            signing.check_trusted(wish.artefact, keys)
        except BadInput as error:
            words = str(error).replace(str(keys), f"trusted_keys of {facts.where}")
            raise BadInput(words) from None


def _signed(test: PartTest, key: Path | None, folder: Path) -> PartTest:
    """A test as a device that accepts only signed artefacts takes it."""
    if test.path is None:
        return test
    if key is None:
        why = "the device accepts only signed artefacts; give --sign KEY, to sign the test"
        return PartTest(part=test.part, why_not=why)
    copy = folder / test.path.name
    shutil.copyfile(test.path, copy)
    signing.append_signature(copy, signing.load_key(key))
    return dataclasses.replace(test, path=copy)


def _input_files(manifest: Manifest, folder: Path) -> list[StoredFile]:
    if manifest.reference is None or manifest.llm is not None:
        return []
    arrays = reference.inputs(manifest.reference, manifest.ranges)
    files = []
    for index, spec in enumerate(manifest.inputs):
        path = folder / f"input_{index}.npy"
        np.save(path, arrays[spec.name], allow_pickle=False)
        files.append(StoredFile.of(path))
    return files


def _push(
    store: DeviceStore, files: Sequence[StoredFile], facts: DeviceFacts, progress: Progress
) -> int:
    missing = store.missing(files)
    wanted = sum(file.size for file in missing)
    if wanted + _SPARE_BYTES > facts.storage_free_bytes:
        raise StorageFull(
            f"{facts.where}: {wanted / 1e6:.0f} MB are to be pushed and "
            f"{facts.storage_free_bytes / 1e6:.0f} MB are free; make room, or choose other storage "
            "with --root"
        )
    sent = 0
    for number, file in enumerate(missing):
        progress.detail(f"{number + 1}/{len(missing)} {file.name}")
        sent += store.put(file)
    return sent


def _try_parts(
    store: DeviceStore,
    script: str,
    tests: Sequence[PartTest],
    manifest: Manifest,
    artefact: StoredFile,
) -> list[PartResult]:
    results = []
    for test in tests:
        if test.path is None or test.manifest is None:
            results.append(
                PartResult(part=test.part, held=None, words=f"not tried: {test.why_not}")
            )
            continue
        file = StoredFile.of(test.path)
        results.append(_try(test.part, partial(_hold, store, script, file, test.manifest)))
    results.append(_try("model", partial(_hold, store, script, artefact, manifest)))
    return results


def _try(part: str, action: Callable[[], tuple[tuple[OutputError, ...], str]]) -> PartResult:
    """A process of its own for each part: one that dies takes no other one along."""
    try:
        errors, words = action()
    except DeviceFailure as error:
        return PartResult(part=part, held=False, words=str(error))
    if not errors:
        return PartResult(part=part, held=None, words=words)
    held = all(error.held for error in errors)
    return PartResult(part=part, held=held, words=words, errors=errors)


def _hold(
    store: DeviceStore, script: str, file: StoredFile, manifest: Manifest
) -> tuple[tuple[OutputError, ...], str]:
    """Run one artefact there and hold it against its recorded outputs."""
    with Session.of_bundle(store.transport, script) as session:
        if manifest.llm is not None:
            model: RemoteLlm | RemoteModel = RemoteLlm(session, store.path(file), manifest)
        else:
            model = session.load(store.path(file), manifest)
        gpus = [str(device["name"]) for device in session.gpus() if device["selected"]]
        if manifest.reference is None:
            return (), "it loads; built with --no-check, so there are no outputs to hold it against"
        tolerance = default_tolerance(manifest)
        if isinstance(model, RemoteLlm):
            errors = llm_check.hold(model, manifest.reference, tolerance)
        else:
            outputs = model.run(reference.inputs(manifest.reference, manifest.ranges))
            errors = reference.check(outputs, manifest.reference, tolerance)
        npu = {"cpu": "ONNX Runtime's CPU provider", "qnn": f"HTP v{manifest.htp_arch}"}
        told = session.fallbacks()
        words = [*gpus, *told]
        if manifest.npu_regions and not told:
            simulated = ", simulated" if model.simulated else ""
            words.append(npu.get(manifest.npu_provider, manifest.npu_provider) + simulated)
        return tuple(errors), " and ".join(words)


def _reasons(failed: Sequence[PartResult], where: str) -> dict[str, str]:
    """Part -> why it failed."""
    found = {}
    for part in failed:
        if part.errors:
            worst = max(error.relative_error for error in part.errors)
            found[part.part] = f"wrong numbers (relative error {worst:.1e})"
        else:
            words = part.words.removeprefix(f"{where}: ")
            found[part.part] = words.removesuffix(_CPU_ADVICE)  # the tests' artefacts have none
    return found


def _words_of_failure(
    transport: Transport, failed: Sequence[PartResult], manifest: Manifest
) -> str:
    reasons = _reasons(failed, transport.where)
    parts_by_reason: dict[str, list[str]] = {}
    for part, why in reasons.items():
        parts_by_reason.setdefault(why, []).append(part)
    lines = [f"{', '.join(parts)}: {why}" for why, parts in parts_by_reason.items()]
    first = "gpu" if "gpu" in reasons else failed[0].part  # whose memory all of them need
    hint = _NEXT_STEP.get(first, "the model's own code does not run there")
    if Unfit().after(reasons, manifest) is not None:
        hint += "; or let its CPU do that with --allow-fallback"
    return f"{transport.where}: nothing was installed; {'; '.join(lines)}; {hint}"


def environment_of(library: str | None, device: str | None) -> dict[str, str]:
    """Variables for the device's program, from the flags of the verb."""
    found = {"HETERO_OPENCL_LIB": library, "HETERO_OPENCL_DEVICE": device}
    return {name: value for name, value in found.items() if value is not None}


def default_name(artefact: Path) -> str:
    """What an artefact is called on a device, where the user does not say."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", artefact.stem).lstrip("._-")
    return name or f"model_{os.getpid()}"
