"""What one operator costs on one device, in µs, from the figures of a target spec: a roofline.

    time = max(multiply-accumulates / rate of their kind, bytes / bandwidth) + launch

GPU. All bytes come from memory. A kernel costs one launch. An element-wise operator costs neither
a launch nor its main operand's traffic, because it runs inside its producer's kernel (TVM's
FuseOps): only its other operands are read. The first of a chain has no such producer when that
producer runs elsewhere; the hand-over, which holds a launch, stands for that.

NPU. Weights come from memory, activations stay on the chip; what crosses a region's border is
paid by the hand-over. Rows are padded to the matrix unit's tile. A region is launched as one, so
the launch is in the hand-over too and an operator only has its small fixed cost.

CPU. Nothing is placed there by cost: memory traffic alone, so that totals are not silly.

Figures are those of float16 except `float32_rate`; a "qnn" NPU computes float32 as float16.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

from target_specs.spec import Origin, SocSpec


class OpWork(Protocol):
    """What the model reads of an operator; `relay_passes.op_work.Work` has it."""

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def macs(self) -> int: ...  # noqa: D102
    @property
    def bytes(self) -> int: ...  # noqa: D102
    @property
    def weight_bytes(self) -> int: ...  # noqa: D102
    @property
    def output_bytes(self) -> int: ...  # noqa: D102
    @property
    def element_bytes(self) -> int: ...  # noqa: D102
    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def fuses(self) -> bool: ...  # noqa: D102
    @property
    def reduces(self) -> bool: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class CostModel:
    """Costs on one SoC."""

    spec: SocSpec

    def cost_us(self, work: OpWork, device: str) -> float:
        """Predicted time of the operator on `device`, alone."""
        if work.kind == "view":
            return 0.0
        if device == "gpu":
            return self._gpu_us(work)
        if device == "npu":
            return self._npu_us(work)
        assert device == "cpu", device
        return _us(work.bytes, self.spec.memory.one_device_gbps)

    def handover_us(self, source: str, target: str, nbytes: int) -> float:
        """Cost of a tensor made on `source` before an operator on `target` works on it.

        From "cpu" are the model's inputs too, to "cpu" its outputs. No copy is made: memory is
        shared. The NPU alone reads and writes it through on-chip memory.
        """
        gpu, npu = self.spec.gpu, self.spec.npu
        leave = {"gpu": gpu.handover_us, "npu": 0.0, "cpu": 0.0}[source]
        enter = {"gpu": gpu.launch_us, "npu": npu.launch_us, "cpu": 0.0}[target]
        if (source, target) == ("npu", "gpu"):  # its queue has drained meanwhile
            enter = npu.handover_us
        through = 0.0
        if "npu" in (source, target):
            through = _us(self._npu_bytes(nbytes, 4), self.spec.memory.one_device_gbps)
        return leave + enter + through

    def origin(self, work: OpWork, device: str) -> Origin:
        """Where the figure comes from that decides this operator's cost."""
        if device == "cpu":
            return self.spec.memory.origin("one_device_gbps")
        table = self.spec.gpu if device == "gpu" else self.spec.npu
        return table.origin(_rate_key(work))

    def _gpu_us(self, work: OpWork) -> float:
        gpu = self.spec.gpu
        if work.fuses:
            main = min(work.output_bytes, work.bytes - work.output_bytes)
            return _us(work.bytes - work.output_bytes - main, gpu.vector_gbps)
        compute = 0.0
        if work.macs and not work.reduces:
            share = gpu.float32_rate if work.element_bytes == 4 else 1.0
            compute = _us(2 * work.macs, share * getattr(gpu, _rate_key(work)))
        gbps = gpu.reduction_gbps if work.reduces else gpu.vector_gbps
        return max(compute, _us(work.bytes, gbps)) + gpu.launch_us

    def _npu_us(self, work: OpWork) -> float:
        npu = self.spec.npu
        weights = self._npu_bytes(work.weight_bytes, work.element_bytes)
        rest = self._npu_bytes(work.bytes - work.weight_bytes, work.element_bytes)
        compute = 0.0
        if work.macs and not work.reduces:
            padded = -(-work.rows // npu.tile) * npu.tile / work.rows
            compute = _us(2 * work.macs * padded, getattr(npu, _rate_key(work)))
        onchip = _us(rest, npu.reduction_gbps if work.reduces else npu.vector_gbps)
        return max(compute, onchip, _us(weights, self.spec.memory.one_device_gbps)) + npu.op_us

    def _npu_bytes(self, nbytes: int, element_bytes: int) -> int:
        return nbytes // 2 if self.spec.npu.provider == "qnn" and element_bytes == 4 else nbytes


def _rate_key(work: OpWork) -> str:
    if work.macs and not work.reduces:
        return f"{work.kind}_gflops"
    return "reduction_gbps" if work.reduces else "vector_gbps"


def _us(amount: float, giga_per_second: float) -> float:
    return amount / giga_per_second / 1e3
