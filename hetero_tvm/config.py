"""What a build was asked for: frozen, plain data."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from hetero_tvm.errors import BadInput

DTYPES = ("float32", "float16")
DEVICES = ("gpu", "npu", "gpu+npu")
Objective = Literal["latency", "energy", "edp"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
_LLM_CACHE_GB = "8"


def default_cache_dir() -> Path:
    """Where compiled NPU regions, estimates and GPU kernels are kept; safe to delete."""
    if chosen := os.environ.get("HETERO_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hetero_tvm"


def default_estimate() -> bool | None:
    """What `BuildConfig.estimate` is where nobody says: None, or False by HETERO_ESTIMATE=off.

    Raises:
        BadInput: the variable has another value.
    """
    chosen = os.environ.get("HETERO_ESTIMATE", "")
    if chosen not in ("", "off"):
        raise BadInput(f"HETERO_ESTIMATE={chosen}: write off, or leave it unset")
    return False if chosen else None


def default_llm_cache_bytes() -> int:
    """What builds of language models may keep in the cache for later ones; 0: nothing.

    Raises:
        BadInput: `HETERO_LLM_CACHE_GB` is no number of gigabytes.
    """
    chosen = os.environ.get("HETERO_LLM_CACHE_GB") or _LLM_CACHE_GB
    try:
        found = float(chosen)
        if not 0 <= found < math.inf:
            raise ValueError
    except ValueError:
        raise BadInput(f"HETERO_LLM_CACHE_GB={chosen}: gigabytes, 0 or more") from None
    return int(found * 1e9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlmStep:
    """Which step of a language model a build is: so many new tokens on caches of so many."""

    importer: Any  # `frontend.llm_import.StepImporter`, the same one for all steps
    rows: int
    capacity: int

    @property
    def folder(self) -> Any:
        """The `frontend.llm_folder.LlmFolder`; `model` is its ONNX file."""
        return self.importer.folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """One build.

    `inputs` fixes free dimensions: input name -> what `frontend.parse_input_flag` returns.
    `devices` says which accelerators may be used; the CPU takes what neither can.
    """

    model: Path
    target: str
    output: Path | None  # None: plan only
    os: str | None = None  # a name of `device_os.OSES` that host code is for; None: this machine's
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"
    devices: str = "gpu+npu"
    split: bool = True  # operators may be cut between both devices
    objective: Objective = "latency"  # edp: energy times latency
    # The vendor's estimates: None: of the plan's NPU regions, where they can be had. True: also of
    # matrix products one by one, and it is an error where they cannot. False: the spec alone.
    estimate: bool | None = dataclasses.field(default_factory=default_estimate)
    reprofile: bool = False  # target host: measure this machine again
    # Build every mode and follow the one that is fastest; None: where the target is this machine.
    measure: bool | None = None
    off_npu: tuple[str, ...] = ()  # operators that the NPU must not have, or patterns of them
    samples: tuple[Path, ...] = ()  # .npz files of inputs that the model must be right on
    memory_limit: int | None = None  # bytes of devices' memory that a plan may need
    gpu_share: float = 1.0  # of the GPU's time that is ours; the rest is somebody else's
    check: bool = True
    keep_going: bool = False
    sign: Path | None = None  # private key that the artefact is signed with
    # Compiled NPU regions of several lengths have their weights once. None: where a device loads
    # them; this machine's simulator cannot.
    share_npu_weights: bool | None = None
    # Other targets that the artefact's NPU part is for too; planned is for `target`.
    more_targets: tuple[str, ...] = ()
    # Carry what computes the NPU's regions, and the whole model, on a CPU.
    with_fallback: bool = False
    llm: LlmStep | None = None  # None: a model like any other
    dump_ir: Path | None = None
    # A length that the NPU is to have no graphs for -> the numbers of rows that it has some for.
    npu_rows: Mapping[int, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    db: Path | None = None  # tuned kernels; None: default schedules alone
    cache_dir: Path = dataclasses.field(default_factory=default_cache_dir)
    # What steps of language models may take of it; see `kept_steps`.
    llm_cache_bytes: int = dataclasses.field(default_factory=default_llm_cache_bytes)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: one of {', '.join(DTYPES)}")
        if self.devices not in DEVICES:
            raise ValueError(f"devices {self.devices!r}: one of {', '.join(DEVICES)}")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective {self.objective!r}: one of {', '.join(OBJECTIVES)}")
        if not 0 < self.gpu_share <= 1:
            raise ValueError(f"gpu_share {self.gpu_share}: above 0, at most 1")
        if self.memory_limit is not None and self.memory_limit < 1:
            raise ValueError(f"memory_limit {self.memory_limit}: bytes, above 0")
