"""What the compiler knows about one SoC, as frozen data. One field is one key of the TOML file.

Units are in the names: `_gflops` 1e9 floating-point operations a second (one MAC is two),
`_gbps` 1e9 bytes a second, `_us` microseconds, `_bytes` bytes, `_mb` MiB. A number is a *figure*:
it has a source and a provenance, its own or its table's.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, get_args

Provenance = Literal["measured", "published", "vendor-estimated", "scaled"]
PROVENANCES: tuple[str, ...] = get_args(Provenance)
PROVIDERS = ("qnn", "cpu")


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where one figure comes from."""

    provenance: Provenance
    source: str  # document and table, address, command, or the rule it was scaled by


@dataclasses.dataclass(frozen=True)
class Range:
    """The values a figure may have, and why nothing outside is believed."""

    low: float
    high: float
    why: str


def _in(low: float, high: float, why: str) -> Any:
    return dataclasses.field(metadata={"range": Range(low, high, why)})


def _optional_in(low: float, high: float, why: str) -> Any:
    return dataclasses.field(default=None, metadata={"range": Range(low, high, why)})


def _gflops() -> Any:
    return _in(0.1, 200_000, "no phone, laptop or desktop unit of this kind is outside")


def _gbps() -> Any:
    return _in(0.1, 20_000, "below is a disk, above is more than on-chip memory gives")


def _rate_at_rows() -> Any:
    return dataclasses.field(
        default=None,
        metadata={"range": Range(0.1, 200_000, "GFLOP/s, as for the other rates"), "at_rows": True},
    )


def _power() -> Any:
    return _optional_in(0.05, 500, "watts of one unit of a phone, laptop or desktop at work")


def _left_rate() -> Any:
    return _optional_in(0.05, 1, "a share; two devices on the same cores leave each about half")


def _us() -> Any:
    return _in(0.01, 50_000, "a tenth of a clock tick to a twentieth of a second")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """One TOML table: its figures, its default source, and the origin of each figure."""

    source: str
    provenance: Provenance
    origins: Mapping[str, Origin] = dataclasses.field(repr=False, compare=False, hash=False)

    def origin(self, key: str) -> Origin:
        """The figure's own origin, else the table's."""
        assert key in {field.name for field in dataclasses.fields(self)}, f"no figure {key}"
        return self.origins.get(key, Origin(self.provenance, self.source))

    def figures(self) -> list[str]:
        """Keys that carry a number or a flag, in file order."""
        words = {"source", "provenance", "origins", "name", "provider"}
        names = [field.name for field in dataclasses.fields(self)]
        return [name for name in names if name not in words and getattr(self, name) is not None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemorySpec(Table):
    """Memory that all the SoC's processors share."""

    peak_gbps: float = _gbps()  # data sheet or best bulk rate
    one_device_gbps: float = _gbps()  # what one processor alone gets of it
    two_devices_gbps: float = _gbps()  # what GPU and NPU together get


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuSpec(Table):
    """The OpenCL device."""

    name: str
    max_work_group_size: int = _in(16, 16_384, "what OpenCL drivers report")
    local_memory_bytes: int = _in(1_024, 1 << 20, "per work-group, what OpenCL drivers report")
    wave_size: int = _in(1, 256, "work-items in lockstep; 1 is a CPU, 128 the widest Adreno")
    # Of a CPU that stands in: work-groups that run at once; absent: not known.
    cores: int | None = _optional_in(1, 1_024, "what OpenCL calls compute units")
    half: bool  # arithmetic in float16, not only storage
    denormals: bool | None = None  # float32 arithmetic takes and gives them; None: not known
    vector_width: int = _in(1, 64, "32-bit lanes that one work-item should use")
    # Constants are read as images of up to so many pixels; absent: as memory.
    image_pixels: int | None = _optional_in(
        4_096, 1 << 30, "CL_DEVICE_IMAGE_MAX_BUFFER_SIZE is 65536 at least, 2^27 on Adreno"
    )
    matmul_gflops: float = _gflops()
    # (rows of the activation, GFLOP/s), rows ascending; in place of the above where it is known
    matmul_at_rows: tuple[tuple[int, float], ...] | None = _rate_at_rows()
    # The same with a weight of few bits, computed from its codes; absent: as from floats.
    coded_matmul_at_rows: tuple[tuple[int, float], ...] | None = _rate_at_rows()
    batched_matmul_gflops: float = _gflops()
    conv_gflops: float = _gflops()
    float32_rate: float = _in(0.05, 4, "share of the three rates above that float32 reaches")
    vector_gbps: float = _gbps()  # memory-bound kernels: element-wise, data movement
    reduction_gbps: float = _gbps()  # softmax, norms, pools, depthwise convolution
    launch_us: float = _us()  # one more kernel on a queue that is at work
    handover_us: float = _us()  # until another processor may read what the GPU wrote: clFinish
    flag_us: float = _us()  # the same by a predicted sleep and a poll of a flag in shared memory
    both_rate: float | None = _left_rate()  # of the compute rates, while the NPU works too
    both_row_rate: float | None = _left_rate()  # the same of a product of one row, read from memory
    power_w: float | None = _power()  # at work


@dataclasses.dataclass(frozen=True, kw_only=True)
class NpuSpec(Table):
    """The NPU, or what stands in for it."""

    name: str
    provider: str  # ONNX Runtime execution provider: "qnn", or "cpu" as a stand-in
    soc_model: int | None = _optional_in(1, 1_000, "QNN's number of the SoC")
    htp_arch: int | None = _optional_in(65, 99, "Hexagon generation: 73 is v73")
    vtcm_mb: int | None = _optional_in(1, 64, "on-chip memory; QNN builds for 2 to 16")
    # What one of its processes can address; absent: what Qualcomm's compiler says of every HTP, and
    # no bound where the NPU is a stand-in.
    window_mb: int | None = _optional_in(1, 1 << 20, "MiB; a 32-bit processor has less than 4096")
    # Products of at most so many rows are computed from a narrow weight's codes; absent: none.
    coded_rows: int | None = _optional_in(1, 1 << 20, "rows of a product")
    dtypes: frozenset[str]  # of tensors that cross a region's border or live in it
    max_rank: int = _in(1, 8, "QNN tensors have at most 6 dimensions")
    tile: int = _in(1, 128, "rows of a matmul are padded to a multiple of it")
    matmul_gflops: float = _gflops()  # activation × constant weight
    # (rows of the activation, GFLOP/s), rows ascending; in place of the above where it is known
    matmul_at_rows: tuple[tuple[int, float], ...] | None = _rate_at_rows()
    # The same with a weight of few bits, computed from its codes; absent: as from floats.
    coded_matmul_at_rows: tuple[tuple[int, float], ...] | None = _rate_at_rows()
    deep_matmul_gflops: float | None = _optional_in(
        0.1, 200_000, "GFLOP/s, as for the other rates"
    )  # of activations too deep and too large to stay on the chip; absent: as all others
    batched_matmul_gflops: float = _gflops()  # activation × activation
    conv_gflops: float = _gflops()
    vector_gbps: float = _gbps()  # element-wise and data movement inside a region
    reduction_gbps: float = _gbps()  # softmax, norms, pools, depthwise convolution
    op_us: float = _us()  # fixed cost of one operator inside a region
    launch_us: float = _us()  # to start one region and see it end
    handover_us: float = _us()  # from a region's end until the GPU works on what it wrote
    submit_us: float = _us()  # to start one region without waiting for its end
    flag_us: float = _us()  # to see its end by a poll of a flag in shared memory
    both_rate: float | None = _left_rate()  # of the compute rates, while the GPU works too
    both_row_rate: float | None = _left_rate()  # the same of a product of one row, read from memory
    power_w: float | None = _power()  # at work


@dataclasses.dataclass(frozen=True, kw_only=True)
class SocSpec:
    """One target."""

    name: str  # what the user types
    soc: str  # the vendor's part number
    soc_ids: tuple[int, ...]  # the kernel's numbers (/sys/devices/soc0/soc_id); () = any machine
    source: str
    memory: MemorySpec
    gpu: GpuSpec
    npu: NpuSpec

    @property
    def provenance(self) -> str:
        """`25 published, 10 scaled`: how solid the figures are."""
        return ", ".join(f"{count} {kind}" for kind, count in self.provenance_counts().items())

    def provenance_counts(self) -> dict[str, int]:
        """How many of the figures are of which provenance, the most solid first."""
        tables: tuple[Table, ...] = (self.memory, self.gpu, self.npu)
        counts: Counter[str] = Counter(
            table.origin(key).provenance for table in tables for key in table.figures()
        )
        return {kind: counts[kind] for kind in PROVENANCES if counts[kind]}
