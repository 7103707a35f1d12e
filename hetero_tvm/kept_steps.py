"""Steps of a language model as they were lowered, kept: whoever builds it again goes on from there.

    after a step is lowered          its functions, NPU regions and plan   ▸  llm_steps/KEY.bin
    while it is lowered              each of its weights                   ▸  llm_weights/HASH.bin
    before a step would be           the same key: all of it back, no phase is run

A build that was interrupted so repeats the step that it was at, one with other flags what hangs on
these. The key is everything that a step depends on: the model's bytes, the configuration, what
things cost, the versions of what lowers it, and our own code. Weights are kept by content, apart,
since steps and builds share them; ONNX Runtime's logits, which a build is compared with, likewise.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import shutil
import time
import zipfile
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import IRModule, tirx

from hetero_tvm import kept_files, llm_check, runtime, typed_json
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from hetero_tvm.frontend import ImportedModel
from hetero_tvm.frontend.random_inputs import InputRange
from hetero_tvm.frontend.tensor_spec import TensorSpec
from hetero_tvm.kept_files import KeptFiles
from hetero_tvm.npu_compiler import CompiledRegion
from hetero_tvm.variants import function_name
from hetero_tvm.weights import Known
from relay_passes import lower_npu
from relay_passes.npu_onnx import OutsideWeight
from relay_passes.plan import Plan
from relay_passes.split_tensor import Splitted
from schedules.cost_model import CostModel

STEPS, WEIGHTS = "llm_steps", "llm_weights"  # folders of the cache
_COARSE_S = 2  # file systems' clocks are behind the system's, by so much at most (FAT)
_FREE = 4  # models that must fit on the disk beside what is kept
_PACKAGES = ("hetero_tvm", "relay_passes", "schedules", "target_specs")
_VERSIONED = ("apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnxruntime", "onnxruntime-qnn")
# What does not change a step. All else does, also what the configuration will have one day.
_ELSEWHERE = frozenset(
    "model output llm cache_dir llm_cache_bytes dump_ir sign check reprofile measure db".split()
)


_STATE, _MODULE = "state.json", "module.json"  # of a kept step


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Weight:
    """A weight of the build that kept it."""

    number: int
    dtype: str
    shape: tuple[int, ...]
    digest: str  # hexadecimal, like the next
    slabs: tuple[str, ...]

    @property
    def known(self) -> Known:
        """As a `WeightStore` knows it."""
        slabs = tuple(map(bytes.fromhex, self.slabs))
        return Known(self.dtype, self.shape, bytes.fromhex(self.digest), slabs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Region:
    """A `CompiledRegion` without its model; a language model's has no other ones."""

    symbol: str
    inputs: tuple[lower_npu.TensorSpec, ...]
    outputs: tuple[lower_npu.TensorSpec, ...]
    compile_seconds: float
    peak_bytes: int
    cached: bool
    names: tuple[str, ...]
    weight_bytes: int
    outside: tuple[OutsideWeight, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Step:
    """What is kept of one beside its functions and the models of its regions."""

    taken: tuple[int, ...]  # weights that `main` takes, by their numbers
    weights: tuple[_Weight, ...]  # all
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: tuple[InputRange, ...]
    sha256: str
    node_of: Mapping[str, str]
    plan: Mapping[str, Any]
    output_axes: tuple[tuple[int, ...] | None, ...]
    regions: tuple[_Region, ...]
    npu_compiler_bytes: int
    record: Mapping[str, Any] | None


class KeptSteps:
    """What is kept of one model's build; nothing where that would not pay, or not be right."""

    def __init__(self, config: BuildConfig, costs: CostModel) -> None:
        """`config`: of any of its steps. `costs`: what they are planned by."""
        assert config.llm is not None
        self._costs = costs
        self._began = time.time() - _COARSE_S
        self._most_bytes = config.llm_cache_bytes
        self._cache = config.cache_dir if _pays(config) else None
        self._files = KeptFiles(self._folder(STEPS))
        self.weights = KeptFiles(self._folder(WEIGHTS))

    @property
    def keeps(self) -> bool:
        """Whether anything is kept of this build."""
        return self._cache is not None

    def _folder(self, name: str) -> Path | None:
        return None if self._cache is None else self._cache / name

    def find(self, config: BuildConfig) -> bytes | None:
        """The step of `config`, for `state_of`; None: it was not kept."""
        return self._files.read(self._key(config)) if self._cache is not None else None

    def state_of(self, found: bytes, start: State, rows: int) -> State | None:
        """What lowering the step gave; None where weights of it are gone.

        Args:
            found: what `find` gave.
            start: the state before it.
            rows: new tokens of the step.
        """
        store = start.weights
        assert store is not None
        try:
            with zipfile.ZipFile(io.BytesIO(found)) as archive:
                step = typed_json.from_object(_Step, typed_json.parse_object(archive.read(_STATE)))
                module = archive.read(_MODULE).decode()
                models = [archive.read(_model_name(n)) for n in range(len(step.regions))]
        except (zipfile.BadZipFile, KeyError, ValueError):
            return None
        numbers: dict[int, int] = {}
        for weight in step.weights:
            index = store.adopt(weight.known)
            if index is None:
                return None
            numbers[weight.number] = index
        store.of_function[function_name(rows, False)] = tuple(numbers[n] for n in step.taken)
        compiled = []
        for region, onnx_model in zip(step.regions, models, strict=True):
            outside = [dataclasses.replace(w, number=numbers[w.number]) for w in region.outside]
            fields = {**_fields(region), "outside": tuple(outside)}
            compiled.append(CompiledRegion(**fields, onnx=onnx_model))
        return dataclasses.replace(
            start,
            mod=tvm.ir.load_json(module),
            plan=Plan.from_json(json.dumps(step.plan)),
            compiled=tuple(compiled),
            model=ImportedModel(
                mod=IRModule(),
                inputs=step.inputs,
                outputs=step.outputs,
                onnx_model=onnx.ModelProto(),
                ranges=step.ranges,
                sha256=step.sha256,
                node_of=step.node_of,
                errors=(),
            ),
            cut=Splitted(mod=IRModule(), device={}, region={}, output_axes=step.output_axes),
            npu_compiler_bytes=step.npu_compiler_bytes,
            record=step.record,
        )

    def keep(self, config: BuildConfig, rows: int, state: State) -> State:
        """`state` after its step's phases; its function takes its weights as parameters then."""
        store = state.weights
        if self._cache is None or store is None:
            return state
        assert state.model is not None and state.cut is not None and state.plan is not None
        name = function_name(rows, False)
        main = store.lift(name, state.mod["main"])
        kernels = {v: f for v, f in state.mod.functions.items() if isinstance(f, tirx.PrimFunc)}
        module = IRModule(
            {**kernels, state.mod.get_global_var("main"): main}, attrs=state.mod.attrs
        )
        taken = store.of_function[name]
        outside = [weight.number for region in state.compiled for weight in region.outside]
        step = _Step(
            taken=taken,
            # In the order in which they were found, so that they get the same numbers again.
            weights=tuple(_weight(n, store.known(n)) for n in sorted({*taken, *outside})),
            inputs=state.model.inputs,
            outputs=state.model.outputs,
            ranges=state.model.ranges,
            sha256=state.model.sha256,
            node_of=dict(state.model.node_of),
            plan=state.plan.to_dict(),
            output_axes=state.cut.output_axes,
            regions=tuple(_Region(**_fields(region)) for region in state.compiled),
            npu_compiler_bytes=state.npu_compiler_bytes,
            record=state.record,
        )
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(_STATE, json.dumps(step, default=_plain))
            archive.writestr(_MODULE, tvm.ir.save_json(module))
            for number, region in enumerate(state.compiled):
                archive.writestr(_model_name(number), region.onnx)
        self._files.write(self._key(config), packed.getvalue())
        return dataclasses.replace(state, mod=module)

    def expected(self, config: BuildConfig, **run: Any) -> llm_check.Expected:
        """`llm_check.expected` of the folder, or what it gave before."""
        assert config.llm is not None
        folder = config.llm.folder
        if self._cache is None:
            return llm_check.expected(folder, **run)
        key = _reference_key(config, run)
        found = self._files.read(key)
        if found is not None:
            with np.load(io.BytesIO(found), allow_pickle=False) as arrays:
                return llm_check.Expected(
                    prompt=arrays["prompt"].tolist(),
                    then=arrays["then"].tolist(),
                    logits=list(arrays["logits"]),
                    limit=float(arrays["limit"]),
                )
        wanted = llm_check.expected(folder, **run)
        packed = io.BytesIO()
        written: dict[str, Any] = {k: np.array(v) for k, v in vars(wanted).items()}
        np.savez(packed, **written)
        self._files.write(key, packed.getvalue())
        return wanted

    def has_expected(self, config: BuildConfig, **run: Any) -> bool:
        """Whether `expected` would have it without running ONNX Runtime."""
        path = self._files.path(_reference_key(config, run))
        return path is not None and path.exists()

    def bound(self) -> None:
        """Remove what is kept above a limit, the oldest first; never what this build used."""
        if self._cache is not None:
            folders = [self._cache / STEPS, self._cache / WEIGHTS]
            kept_files.bound(folders, self._most_bytes, since=self._began)

    def _key(self, config: BuildConfig) -> str:
        assert config.llm is not None
        fields = {
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(config)
            if field.name not in _ELSEWHERE
        }
        model = self._costs.gpu_model
        trees = model.booster.save_raw() if model is not None else b""
        about = [
            *(_code(), _versions(), config.llm.importer.sha256, repr(config.llm.folder.caches)),
            *(config.llm.rows, config.llm.capacity, fields, self._costs.spec),
            [hashlib.sha256(trees).hexdigest(), model.summary if model is not None else ""],
        ]
        text = json.dumps(about, sort_keys=True, default=_plain)
        return hashlib.sha256(text.encode()).hexdigest()


def _reference_key(config: BuildConfig, run: Mapping[str, Any]) -> str:
    assert config.llm is not None
    folder = config.llm.folder
    about = [_code(), _versions(), config.llm.importer.sha256, repr(folder.caches), run]
    return hashlib.sha256(json.dumps(["reference", about]).encode()).hexdigest()


def _plain(value: object) -> object:
    """What JSON has not, the same in every process."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Set):
        return sorted(map(repr, value))
    return dict(value) if isinstance(value, Mapping) else repr(value)


def _pays(config: BuildConfig) -> bool:
    """Whether to keep anything of this build."""
    # Tuned kernels and samples are files of the user's; who dumps phases wants to see them run.
    if config.output is None or config.db or config.samples or config.dump_ir:
        return False
    if not config.llm_cache_bytes:
        return False
    assert config.llm is not None
    model = config.llm.folder.model
    size = sum(path.stat().st_size for path in model.parent.glob(f"{model.name}*"))
    at = config.cache_dir
    while not at.exists() and at != at.parent:
        at = at.parent
    try:
        return shutil.disk_usage(at).free > _FREE * size
    except OSError:
        return False


@functools.cache
def _code() -> str:
    """A hash of all that lowers a step."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".toml"):
                digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _versions() -> list[str | None]:
    return [runtime.package_version(package) for package in _VERSIONED]


def _weight(number: int, known: Known) -> _Weight:
    return _Weight(
        number=number,
        dtype=known.dtype,
        shape=known.shape,
        digest=known.digest.hex(),
        slabs=tuple(slab.hex() for slab in known.slabs),
    )


def _fields(region: CompiledRegion | _Region) -> dict[str, Any]:
    return {field.name: getattr(region, field.name) for field in dataclasses.fields(_Region)}


def _model_name(number: int) -> str:
    return f"region_{number}.onnx"
