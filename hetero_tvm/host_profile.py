"""What this machine can do: the target `host` with figures measured here, once, and kept.

Measured are the matrix products of both devices at several row counts (from one row, bound by
memory, to many, bound by arithmetic), with weights of floats and of four bits, each device alone
and both at once, memory, launches and waits. Other rates are the shipped ones, scaled as this
machine's products are to the shipped products; what is no rate stays as shipped. A profile is a
spec file of its own, so a figure that cannot be is refused as in any other; the measured GPU
kernels lie beside it as records for `schedules.gpu_model`.

A profile belongs to a machine and its software: processor, OpenCL device and driver, ONNX Runtime,
limits on threads. With another of these it is measured again.

`HETERO_HOST_PROFILE=shipped` measures nothing and uses the shipped figures.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hetero_tvm import runtime
from hetero_tvm.errors import BadInput, EnvironmentProblem
from schedules.gpu_model import Record, read_records, write_records
from target_specs.loader import SpecError, load_spec
from target_specs.spec import GpuSpec, NpuSpec, Origin, SocSpec, Table
from target_specs.writer import to_toml

logger = logging.getLogger(__name__)

ROWS = (1, 16, 64, 256)
# Of square weights; the rates at rows are those of the first. No power of two: rows that lie a
# multiple of 4 KiB apart take the same places in a cache, and ONNX Runtime's products of 1024
# columns are a tenth slower than those of 960, 576 or 1536.
SIZES = (960, 384)
CONTENDED_ROWS, CONTENDED_SIZE = 64, 384  # stays in a core's caches: memory is measured apart
VARIABLE = "HETERO_HOST_PROFILE"
_FORMAT = 9
_NOT_MEASURED = (
    "matmul_gflops",
    "batched_matmul_gflops",
    "conv_gflops",
    "vector_gbps",
    "reduction_gbps",
)
_SCALED = (
    "the shipped figure by this machine's rate of products of 256 rows over the shipped rate of "
    "products"
)
_BUDGET_S = 0.2  # for one measurement
# Steps of a chain, by rows: the fewer the longer each takes, so that a busy machine gives some
# runs a core of their own.
_LONG = {16: 9, 64: 3, 256: 2}
# Weights of a chain of one row: beyond caches, as those of a model are when it computes one row.
_FROM_MEMORY = 64 << 20
_CONTENDED_STEPS = 4  # of these products; all together are still beyond caches
# What limits threads, or changes how devices are chosen and waited for.
_THREAD_LIMITS = (
    "CL_CONFIG_CPU_TBB_NUM_WORKERS",
    "DPCPP_CPU_NUM_CUS",
    "POCL_MAX_PTHREAD_COUNT",
)
_VARIABLES = (
    *_THREAD_LIMITS,
    "HETERO_FAST_SYNC",
    "HETERO_NPU_THREADS",
    "HETERO_OPENCL_DEVICE",
    "HETERO_OPENCL_MEMORY",
    "OMP_NUM_THREADS",
)

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class HostProfile:
    """The target `host` as this machine is."""

    spec: SocSpec
    gpu_records: tuple[Record, ...]  # measured kernels; none with the shipped figures


def is_measured() -> bool:
    """Whether plans for `host` go by this machine, not by the shipped figures."""
    return os.environ.get(VARIABLE) != "shipped"


def host_profile(
    cache_dir: Path, *, reprofile: bool = False, progress: Tell = lambda line: None
) -> HostProfile:
    """The profile of this machine, measured if there is none yet.

    Args:
        cache_dir: where profiles are kept.
        reprofile: measure even if there is one.
        progress: called with a line before every measurement.

    Raises:
        BadInput: the environment variable has another value than "shipped".
        EnvironmentProblem: this machine was described, but measuring it failed.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen not in (None, "", "shipped"):
        raise BadInput(f"{VARIABLE}={chosen}: the only value is 'shipped'; unset it to measure")
    shipped = HostProfile(load_spec("host"), ())
    if not is_measured():
        return shipped
    try:
        machine = describe_machine()
    except EnvironmentProblem as error:
        progress(f"this machine cannot be measured ({error}): planning with the shipped figures")
        return shipped
    path = profile_path(cache_dir, machine)
    if not reprofile:
        found = read(path)
        if found is not None:
            return found
    from hetero_tvm import measure_host  # which imports this module

    profile = measure_host.measure_apart(progress)
    write(path, profile, machine)
    return profile


def describe_machine() -> dict[str, Any]:
    """What a profile belongs to, as plain data.

    Raises:
        EnvironmentProblem: no OpenCL device, or no runtime.
    """
    name = runtime.device_name()
    device = next((d for d in runtime.opencl_devices() if d["selected"]), {})
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    return {
        "format": _FORMAT,
        "cpu": cpu_name(),
        "cores": len(usable(0)),
        "compute_units": compute_units(device),
        "opencl": " ".join(
            [name, *(str(device.get(key, "")) for key in ("platform", "driver_version"))]
        ),
        "versions": {
            package: runtime.package_version(package) for package in ("onnxruntime", "apache-tvm")
        },
        "environment": {key: os.environ[key] for key in _VARIABLES if key in os.environ},
    }


def compute_units(device: Mapping[str, Any]) -> int:
    """How many work-groups run at once: drivers for CPUs say so, but not what limits them."""
    limits = [os.environ.get(variable, "") for variable in _THREAD_LIMITS]
    units = int(device.get("compute_units", 1))
    return max(1, min([units, *(int(limit) for limit in limits if limit.isdecimal())]))


def cpu_name() -> str:
    """The processor's name as Linux prints it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def profile_path(cache_dir: Path, machine: Mapping[str, Any]) -> Path:
    """Where the profile of `machine` lies; its records have the suffix `.jsonl`."""
    text = json.dumps(machine, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Path(cache_dir) / "host_profiles" / f"{digest}.toml"


def measure(shipped: SocSpec, machine: Mapping[str, Any], progress: Tell) -> HostProfile:
    """Measure this machine; takes about a minute."""
    # TVM's code generators are needed here and nowhere else in planning for a phone.
    from hetero_tvm import host_bench

    steps = 4 + (len(SIZES) + 1) * len(ROWS)
    done = 0

    def tell(what: str) -> None:
        nonlocal done
        done += 1
        progress(f"measuring this machine ({done} of {steps}): {what}")

    tell("memory")
    one, both = host_bench.memory_gbps(_BUDGET_S)
    both = max(one, both)
    tell("launches and waits")
    waits = host_bench.overheads(shipped, _BUDGET_S)
    step_us: dict[tuple[str, int, int], float] = {}
    for size in SIZES:
        for rows in ROWS:
            tell(f"GPU and NPU in turns, {rows} rows by {size}x{size}")
            product = host_bench.matmul(rows, size)
            found = host_bench.chains_us(
                product, shipped, ("gpu", "npu"), _BUDGET_S, long=_long(rows, size)
            )
            step_us |= {(device, size, rows): us for device, us in found.items()}
    coded_us: dict[str, dict[int, float]] = {"gpu": {}, "npu": {}}
    for rows in ROWS:
        tell(f"GPU and NPU in turns, {rows} rows by {SIZES[0]}x{SIZES[0]} of four bits")
        product = host_bench.coded_matmul(rows, SIZES[0])
        # All have one weight: from codes it is arithmetic that takes the time, of one row too.
        found = host_bench.chains_us(
            product, shipped, ("gpu", "npu"), _BUDGET_S, long=_LONG.get(rows, _LONG[16])
        )
        for device, us in found.items():
            coded_us[device][rows] = us
    tell("GPU and NPU at once")
    kept = host_bench.slowdown(
        host_bench.matmul(CONTENDED_ROWS, CONTENDED_SIZE),
        shipped,
        {device: step_us[device, CONTENDED_SIZE, CONTENDED_ROWS] for device in ("gpu", "npu")},
        _BUDGET_S,
    )
    tell("GPU and NPU at once, from memory")
    kept_of_memory = host_bench.slowdown(
        host_bench.matmul(1, SIZES[0]),
        shipped,
        {device: step_us[device, SIZES[0], 1] for device in ("gpu", "npu")},
        _BUDGET_S,
        steps=_CONTENDED_STEPS,
    )
    float_us = {d: {rows: step_us[d, SIZES[0], rows] for rows in ROWS} for d in ("gpu", "npu")}
    figures: dict[str, dict[str, Any]] = {
        "memory": {"peak_gbps": both, "one_device_gbps": one, "two_devices_gbps": both},
        "gpu": {
            **waits["gpu"],
            "cores": machine["compute_units"],
            "matmul_at_rows": _rates(float_us["gpu"], waits["gpu"]["launch_us"]),
            "coded_matmul_at_rows": _rates(coded_us["gpu"], waits["gpu"]["launch_us"]),
            "both_rate": kept["gpu"],
            "both_row_rate": kept_of_memory["gpu"],
        },
        "npu": {
            **waits["npu"],
            "matmul_at_rows": _rates(float_us["npu"], waits["npu"]["op_us"]),
            "coded_matmul_at_rows": _rates(coded_us["npu"], waits["npu"]["op_us"]),
            "both_rate": kept["npu"],
            "both_row_rate": kept_of_memory["npu"],
        },
    }
    for name in ("gpu", "npu"):
        figures[name] |= _scaled(getattr(shipped, name), figures[name]["matmul_at_rows"])
    spec = with_figures(shipped, figures, machine)
    return HostProfile(spec, _records(spec, step_us))


def _long(rows: int, size: int) -> int:
    """Steps of a chain of products of floats."""
    return _LONG.get(rows) or -(-_FROM_MEMORY // (4 * size**2))


def with_figures(
    shipped: SocSpec, figures: Mapping[str, Mapping[str, Any]], machine: Mapping[str, Any]
) -> SocSpec:
    """`shipped` with measured figures: table -> key -> value, each with its origin."""
    source = (
        f"measured here by hetero_tvm/host_profile.py: {machine['cpu']}, {machine['cores']} cores, "
        f"OpenCL {machine['opencl']}, ONNX Runtime {machine['versions']['onnxruntime']}; a "
        "twentieth of the runs were faster"
    )
    tables: dict[str, Table] = {}
    for name, values in figures.items():
        table: Table = getattr(shipped, name)
        origins = {
            key: Origin("scaled", _SCALED) if key in _NOT_MEASURED else Origin("measured", source)
            for key in values
        }
        tables[name] = dataclasses.replace(table, **values, origins={**table.origins, **origins})
    return dataclasses.replace(shipped, **tables)  # type: ignore[arg-type]


def _scaled(shipped: GpuSpec | NpuSpec, at_rows: tuple[tuple[int, float], ...]) -> dict[str, float]:
    """The rates that are not measured, as this machine's products are to the shipped ones."""
    factor = at_rows[-1][1] / shipped.matmul_gflops
    return {key: factor * getattr(shipped, key) for key in _NOT_MEASURED}


def _rates(step_us: Mapping[int, float], fixed_us: float) -> tuple[tuple[int, float], ...]:
    """GFLOP/s at every row count; what the cost model adds to every operator is taken off.

    `step_us`: of products with the first of `SIZES`, by rows.
    """
    flop = {rows: 2 * rows * SIZES[0] ** 2 for rows in ROWS}
    return tuple(
        (rows, flop[rows] / max(whole - fixed_us, whole / 2) / 1e3)
        for rows, whole in step_us.items()
    )


def _records(spec: SocSpec, step_us: Mapping[tuple[str, int, int], float]) -> tuple[Record, ...]:
    from schedules.cost_model import CostModel

    model = CostModel(spec)
    return tuple(
        Record(
            kind="matmul",
            rows=rows,
            depth=size,
            columns=size,
            macs=rows * size**2,
            bytes=4 * (2 * rows * size + size**2),
            element_bytes=4,
            reduces=False,
            us=us,
            roofline_us=model.product_us("gpu", rows, size, size, weight_bits=32),
        )
        for (device, size, rows), us in step_us.items()
        if device == "gpu"
    )


# --- the cache ---------------------------------------------------------------------------------


def read(path: Path) -> HostProfile | None:
    """The profile at `path`; None where there is none, or a damaged one."""
    if not path.is_file():
        return None
    try:
        records = read_records(path.with_suffix(".jsonl"))
        return HostProfile(load_spec(path), tuple(records))
    except (SpecError, ValueError, OSError) as error:
        logger.warning("%s is damaged (%s); measuring again", path, error)
        return None


def write(path: Path, profile: HostProfile, machine: Mapping[str, Any]) -> None:
    """Keep the profile: records first, the spec last, each whole. An interrupt leaves none."""
    try:
        write_records(path.with_suffix(".jsonl"), profile.gpu_records)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        header = f"# {json.dumps(machine, sort_keys=True)}\n"
        beside.write_text(header + to_toml(profile.spec), encoding="utf-8")
        beside.replace(path)
    except OSError as error:  # the next plan measures again; this one has what it needs
        logger.warning("%s is not kept: %s", path, error.strerror)
