"""What an operator, or a part of one, costs on a device, in µs: a roofline over a spec's figures.

    time = max(multiply-accumulates / rate of their kind, bytes / bandwidth) + launch

GPU. All bytes come from memory. A kernel costs one launch. An element-wise operator costs neither
a launch nor its main operand's traffic, because it runs inside its producer's kernel (TVM's
FuseOps): only its other operands are read. The first of a chain has no such producer when that
producer runs elsewhere; the wait, which holds a launch, stands for that.

A product whose weight is stored in four bits reads them so (`packed`). What computing from codes
costs says `coded_matmul_at_rows`; where that is not known it costs what floats do, because at few
rows, where weights count, arithmetic has time to spare.

NPU. Weights come from memory, activations stay on the chip; what crosses a region's border is
paid apart. Rows are padded to the matrix unit's tile. A region is launched as one, so an operator
only has its small fixed cost.

Of very deep products the NPU keeps its rate only while the activation stays on the chip: see
`_is_deep`. That is why a part of the rows can cost much less than its share.

Attention over a cache. The GPU's kernel ends where the cache does, so it is priced for an average
one: half full for a token, a third for a chunk of a prompt.
The NPU's graph is static: it reads all of it, and what is between its products is written and read
again on the chip. That prices a prompt's chunks; one token's attention an NPU does not take.

CPU. Nothing is placed there by cost: memory traffic alone, so that totals are not silly.

Rows. A matmul's rate may depend on its rows (`matmul_at_rows`): the *time* of a row count between
two figures lies on the line between their times, outside them the nearest rate holds.

Both at once (`both=True`). Each device alone gets at most `one_device_gbps`, both together
`two_devices_gbps`; both ask for as much as they can, so each keeps the same share of its own rate,
two_devices_gbps / (2 * one_device_gbps). Compute rates fall to `both_rate` where devices share
their cores (a host), else they stay; what is measured of one row, which waits for its weight,
falls to `both_row_rate`. The other device is taken to be busy for the whole time.

Better figures, where there are any, take the roofline's place: the vendor's estimates of matrix
products on the NPU (`npu_costs`; one that is a lower bound counts only above the roofline) and of
whole regions (`npu_region_costs`; of named operators of one program), and a model that was trained
on measurements of the GPU (`gpu_model`). The latter times a whole kernel alone, so contention is
the roofline's ratio of both to alone.

A part of an operator is a `Work` with fewer macs, bytes, rows or columns, and costs the same way.
Figures are those of float16 except `float32_rate`; a "qnn" NPU computes float32 as float16.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

from schedules.gpu_model import GpuModel
from schedules.npu_costs import WEIGHT_BITS, NpuCost, NpuCosts, Product, product_of
from schedules.npu_region_costs import RegionCost
from schedules.work import OpWork
from target_specs.spec import GpuSpec, NpuSpec, Origin, SocSpec

_DEEP, _FILLED = 8192, 0.75  # see `_is_deep`
# Of a cache, on average over texts of every length that it has room for: as a token finds it that
# is made behind one, and as a chunk of a prompt does, since most chunks are of long prompts.
_EMPTY, _EMPTY_IN_PROMPT = 1 / 2, 2 / 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Product:
    """`[rows, depth] x [depth, columns]` with a constant right operand, as `OpWork`."""

    rows: int
    depth: int
    columns: int
    weight_bytes: int
    element_bytes: int
    name: str = ""
    kind: str = "matmul"
    fuses: bool = False
    reduces: bool = False
    cache_bytes: int = 0
    score_bytes: int = 0

    @property
    def macs(self) -> int:
        return self.rows * self.depth * self.columns

    @property
    def output_bytes(self) -> int:
        return self.rows * self.columns * self.element_bytes

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.output_bytes + self.rows * self.depth * self.element_bytes


def _product(rows: int, depth: int, columns: int, weight_bits: int) -> _Product:
    assert weight_bits in WEIGHT_BITS, weight_bits
    return _Product(
        rows=rows,
        depth=depth,
        columns=columns,
        weight_bytes=depth * columns * weight_bits // 8,
        element_bytes=4 if weight_bits == 32 else 2,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaitCosts:
    """What order between devices costs, in µs; field by field the planner's `Waiting`."""

    # (waiter, on) -> from the end of the last work on `on` to the start of `waiter`'s next work.
    wait_us: Mapping[tuple[str, str], float]
    region_us: float  # submission of an NPU region
    border_us_per_byte: float  # of what an NPU region reads or writes outside the chip


@dataclasses.dataclass(frozen=True)
class CostModel:
    """Costs on one SoC."""

    spec: SocSpec
    npu_costs: NpuCosts | None = None
    gpu_model: GpuModel | None = None
    # Operator of one program -> what it takes in its NPU region, by the vendor's estimate of that.
    npu_regions: Mapping[str, RegionCost] = dataclasses.field(default_factory=dict)
    # Operator of one program -> what the GPU reads of its weight, as a share of `weight_bytes`: its
    # kernel takes fewer bits than the program says. So may the NPU's, see `takes_codes`.
    packed: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def cost_us(self, work: OpWork, device: str, *, both: bool = False) -> float:
        """Predicted time of the operator, or of a part of it, on `device`.

        Args:
            work: what is done; of a part, the part's.
            device: "gpu", "npu" or "cpu".
            both: the other one of GPU and NPU works at the same time.
        """
        if work.kind == "view":
            return 0.0
        if device == "gpu":
            return self._gpu_us(work, both)
        if device == "npu":
            return self._npu_us(work, both)
        assert device == "cpu", device
        return _us(work.bytes, self.spec.memory.one_device_gbps)

    def product_us(
        self,
        device: str,
        rows: int,
        depth: int,
        columns: int,
        *,
        weight_bits: int = 16,
        both: bool = False,
    ) -> float:
        """Predicted time of `[rows, depth] x [depth, columns]` with a constant weight.

        Args:
            device: "gpu" or "npu".
            rows: of the activation, such as tokens.
            depth: what is summed over.
            columns: of the weight: output channels, or a share of them.
            weight_bits: of one weight in memory; scales of groups are not counted.
                Activations are float32 with 32, else float16.
            both: the other device works at the same time.
        """
        return self.cost_us(_product(rows, depth, columns, weight_bits), device, both=both)

    def npu_matmul(self, rows: int, depth: int, columns: int, dtype: str = "float16") -> NpuCost:
        """What `[rows, depth] x [depth, columns]` costs on the NPU, and in which order of operands.

        Args:
            rows: of the activation.
            depth: what is summed over.
            columns: of the constant weight.
            dtype: of the weight: "float32", "float16", "int8" or "int4".
        """
        bits = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}[dtype]
        return self._npu_cost(_product(rows, depth, columns, bits), both=False)

    def provenance(self, work: OpWork, device: str) -> str:
        """What the cost is: "vendor-estimated", "measured" (fitted to measurements), "modelled"."""
        if device == "npu":
            return self._npu_cost(work, both=False).provenance
        if device == "gpu" and self._measured_us(work) is not None:
            return "measured"
        return "modelled"

    def waiting(self, *, fast: bool = True, element_bytes: int = 4) -> WaitCosts:
        """What order between devices costs.

        Args:
            fast: devices are waited for by a predicted sleep and a poll of a flag, and an NPU
                region is submitted without waiting for its end; else by the drivers' own waits.
            element_bytes: of the tensors that cross an NPU region's border; an NPU that computes
                float32 as float16 moves half of their bytes.
        """
        gpu, npu = self.spec.gpu, self.spec.npu
        gpu_ends = gpu.flag_us if fast else gpu.handover_us
        npu_ends = npu.flag_us if fast else 0.0  # inside launch_us
        border = self._npu_bytes(1 << 20, element_bytes) / (1 << 20)
        return WaitCosts(
            wait_us={
                ("cpu", "gpu"): gpu_ends,
                ("npu", "gpu"): gpu_ends,
                ("cpu", "npu"): npu_ends,
                ("gpu", "npu"): npu_ends + npu.handover_us,  # the GPU's queue has drained meanwhile
                ("gpu", "cpu"): gpu.launch_us,
                ("npu", "cpu"): 0.0,
            },
            region_us=npu.submit_us if fast else npu.launch_us,
            border_us_per_byte=_us(border, self.spec.memory.one_device_gbps),
        )

    def origin(self, work: OpWork, device: str) -> Origin:
        """Where the figure comes from that decides this operator's cost."""
        if device == "cpu":
            return self.spec.memory.origin("one_device_gbps")
        table = self.spec.gpu if device == "gpu" else self.spec.npu
        npu = self.spec.npu
        if device == "npu" and npu.deep_matmul_gflops is not None and _is_deep(npu, work):
            return npu.origin("deep_matmul_gflops")
        if work.kind == "matmul" and table.matmul_at_rows is not None:
            from_codes = table.coded_matmul_at_rows is not None and work.name in self.packed
            return table.origin("coded_matmul_at_rows" if from_codes else "matmul_at_rows")
        return table.origin(_rate_key(work))

    def _gpu_us(self, work: OpWork, both: bool) -> float:
        work = _on_average(work)
        measured = self._measured_us(work)
        if measured is None:
            return self._gpu_roofline_us(work, both)
        plain = self._roofline_of(work, work.bytes, both=False)
        return measured * self._gpu_roofline_us(work, both) / plain

    def gpu_bytes(self, work: OpWork) -> int:
        """What a GPU kernel of its own reads and writes."""
        return work.bytes - round(work.weight_bytes * (1 - self.packed.get(work.name, 1.0)))

    def _measured_us(self, work: OpWork) -> float | None:
        if self.gpu_model is None or work.fuses or work.kind == "view":
            return None
        return self.gpu_model.predict_us(work, self._roofline_of(work, work.bytes, both=False))

    def _gpu_roofline_us(self, work: OpWork, both: bool) -> float:
        return self._roofline_of(work, self.gpu_bytes(work), both)

    def _roofline_of(self, work: OpWork, nbytes: int, both: bool) -> float:
        """`work` on the GPU, if a kernel of its own moves `nbytes`."""
        gpu, left = self.spec.gpu, self._memory_left(both)
        if work.fuses:
            main = min(work.output_bytes, work.bytes - work.output_bytes)
            return _us(work.bytes - work.output_bytes - main, gpu.vector_gbps * left)
        compute = 0.0
        if work.macs and not work.reduces:
            share = gpu.float32_rate if work.element_bytes == 4 else 1.0
            coded = work.name in self.packed
            compute = _us(2 * work.macs, share * _rate(gpu, work, both, coded=coded))
        gbps = gpu.reduction_gbps if work.reduces else gpu.vector_gbps
        return max(compute, _us(nbytes, gbps * left)) + gpu.launch_us

    def _npu_us(self, work: OpWork, both: bool) -> float:
        return self._npu_cost(work, both).us_with(self._memory_left(both))

    def _npu_cost(self, work: OpWork, both: bool) -> NpuCost:
        alone = self._npu_alone(work, both)
        inside = self.npu_regions.get(work.name)
        return alone if inside is None else inside.inside(alone)

    def _npu_alone(self, work: OpWork, both: bool) -> NpuCost:
        modelled = self._npu_roofline(work, both)
        estimated = self._estimated(work)
        if estimated is None:
            return modelled
        below = estimated.us < self._npu_roofline(work, both=False).us
        return modelled if estimated.lower_bound and below else estimated

    def _estimated(self, work: OpWork) -> NpuCost | None:
        """The vendor's, of a product of rows with one constant weight."""
        product = self.npu_product(work)
        if self.npu_costs is None or product is None:
            return None
        return self.npu_costs.product(product)

    def npu_product(self, work: OpWork) -> Product | None:
        """The product that an operator is on the NPU; None where it is none with one weight."""
        product = product_of(work)
        return product._replace(weight_bits=4) if product and self._by_codes(work) else product

    def _by_codes(self, work: OpWork) -> bool:
        """Whether the NPU computes with the codes of the operator's weight."""
        return work.name in self.packed and takes_codes(self.spec.npu, work.rows)

    def _npu_roofline(self, work: OpWork, both: bool) -> NpuCost:
        npu = self.spec.npu
        weights = self._npu_bytes(work.weight_bytes, work.element_bytes)
        if self._by_codes(work):
            weights = round(work.weight_bytes * self.packed[work.name])
        cache = self._npu_bytes(work.cache_bytes, work.element_bytes)
        rest = self._npu_bytes(work.bytes - work.weight_bytes, work.element_bytes) - cache
        compute = 0.0
        if work.macs and not work.reduces:
            padded = -(-work.rows // npu.tile) * npu.tile / work.rows
            rate = _rate(npu, work, both, coded=self._by_codes(work))
            if npu.deep_matmul_gflops is not None and _is_deep(npu, work):
                rate *= npu.deep_matmul_gflops / npu.matmul_gflops
            compute = _us(2 * work.macs * padded, rate)
        onchip = _us(rest, npu.reduction_gbps if work.reduces else npu.vector_gbps)
        scores = self._npu_bytes(work.score_bytes, work.element_bytes)
        return NpuCost(
            compute_us=max(compute, onchip) + _us(scores, npu.reduction_gbps),
            memory_bytes=weights + cache,
            spill_bytes=0,
            gbps=self.spec.memory.one_device_gbps,
            order="right",
            provenance="modelled",
            why=f"roofline; rate {npu.origin(_rate_key(work)).provenance}",
            fixed_us=npu.op_us,
        )

    def _memory_left(self, both: bool) -> float:
        """The share of its rate to memory that a device keeps."""
        memory = self.spec.memory
        return min(1.0, memory.two_devices_gbps / (2 * memory.one_device_gbps)) if both else 1.0

    def _npu_bytes(self, nbytes: int, element_bytes: int) -> int:
        return nbytes // 2 if self.spec.npu.provider == "qnn" and element_bytes == 4 else nbytes


def _on_average(work: OpWork) -> OpWork:
    """What a kernel does that ends where the cache does."""
    if not work.cache_bytes:
        return work
    assert dataclasses.is_dataclass(work)
    empty = _EMPTY if work.rows == 1 else _EMPTY_IN_PROMPT
    nbytes = work.bytes - round(empty * work.cache_bytes)
    macs = round((1 - empty) * work.macs)
    return dataclasses.replace(work, macs=macs, bytes=nbytes, cache_bytes=0)


def takes_codes(npu: NpuSpec, rows: int) -> bool:
    """Whether a product of `rows` with a weight of few bits is computed from its codes on `npu`."""
    return npu.coded_rows is not None and rows <= npu.coded_rows


def _is_deep(npu: NpuSpec, work: OpWork) -> bool:
    """Whether a product's activation is packed again and again instead of staying on the chip.

    Qualcomm's estimates for v73 with 8 MiB, [rows, depth] x [depth, 4096], in TFLOP/s: 4.6 for
    [192,14336] and 4.2 for [256,11008], which fill up to 2/3 of the chip; 1.0 for [256,14336],
    which fills 7/8. Up to a depth of 8192 the loss is below a third, however many rows there are.
    """
    if work.kind != "matmul" or npu.vtcm_mb is None or work.depth <= _DEEP:
        return False
    return 2 * work.rows * work.depth > _FILLED * npu.vtcm_mb * 2**20


def _rate(table: GpuSpec | NpuSpec, work: OpWork, both: bool, *, coded: bool = False) -> float:
    """GFLOP/s of the work's kind at its rows; `coded`: from a weight's codes."""
    left = (table.both_rate or 1.0) if both else 1.0
    at_rows = (table.coded_matmul_at_rows if coded else None) or table.matmul_at_rows
    if work.kind != "matmul" or at_rows is None:
        rate: float = getattr(table, _rate_key(work))
        return rate * left
    row_left = (table.both_row_rate or left) if both and not coded else left
    at = [(rows, rate * (row_left if rows == 1 else left)) for rows, rate in at_rows]
    rows = work.rows
    if rows <= at[0][0]:
        return at[0][1]
    for (below, slow), (above, fast) in itertools.pairwise(at):
        if rows <= above:
            low, high = below / slow, above / fast  # times, up to a factor
            return rows / (low + (high - low) * (rows - below) / (above - below))
    return at[-1][1]


def _rate_key(work: OpWork) -> str:
    if work.macs and not work.reduces:
        return f"{work.kind}_gflops"
    return "reduction_gbps" if work.reduces else "vector_gbps"


def _us(amount: float, giga_per_second: float) -> float:
    return amount / giga_per_second / 1e3
