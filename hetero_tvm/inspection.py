"""What a model is made of, and which device would take what, without compiling anything."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetero_tvm import compiler, pipeline
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from hetero_tvm.frontend import TensorSpec
from hetero_tvm.memory_forecast import Forecast, forecast
from hetero_tvm.progress import Progress
from relay_passes import gpu_support, npu_support
from relay_passes.constants import values_of
from relay_passes.live_memory import weight_bytes
from relay_passes.op_work import op_name, op_work, static_shape
from relay_passes.program import Node, read_program
from target_specs.spec import SocSpec

ACCELERATORS = ("npu", "gpu")
_PHASES = ("import", "to_half", "precision")  # all that support depends on


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator after import."""

    name: str
    node: str  # of the ONNX model
    op: str
    shape: tuple[int, ...] | None  # of its result; None for several
    dtype: str
    macs: int
    weight_bytes: int
    declined: Mapping[str, str]  # device -> why it does not take the operator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """All that the verb says."""

    model: Path
    target: str
    dtype: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    operators: tuple[Operator, ...]
    memory: Forecast

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(operator.macs for operator in self.operators)

    def share(self, device: str) -> float:
        """Of the work that `device` would take: by multiply-accumulates, else by operators."""
        taken = [operator for operator in self.operators if device not in operator.declined]
        if self.macs:
            return sum(operator.macs for operator in taken) / self.macs
        return len(taken) / len(self.operators) if self.operators else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the `--json` of the verb."""
        kinds = collections.Counter(operator.op for operator in self.operators)
        return {
            "model": str(self.model),
            "target": self.target,
            "dtype": self.dtype,
            "inputs": [dataclasses.asdict(spec) for spec in self.inputs],
            "outputs": [dataclasses.asdict(spec) for spec in self.outputs],
            "parameters": self.parameters,
            "macs": self.macs,
            "share": {device: self.share(device) for device in ACCELERATORS},
            "kinds": dict(kinds),
            "memory_bytes": dataclasses.asdict(self.memory),
            "operators": [dataclasses.asdict(operator) for operator in self.operators],
        }


def inspect_model(config: BuildConfig, progress: Progress) -> Inspection:
    """Import the model and ask every device about every operator.

    Raises:
        BadInput: as importing does.
    """
    spec = compiler.target_spec(config.target, progress)
    phases = [phase for phase in pipeline.PHASES if phase.name in _PHASES]
    progress.begin({phase.name: phase.weight for phase in phases})
    state = pipeline.run(
        State(config=config, spec=spec, note=progress.note),
        phases=phases,
        on_phase=lambda phase: progress.step(phase.name),
    )
    assert state.model is not None
    nodes = read_program(state.mod)
    operators = tuple(
        _operator(node, spec, state.model.node_of.get(node.name, node.name), state.unfit)
        for node in nodes
    )
    taken = {
        device: {operator.name: device not in operator.declined for operator in operators}
        for device in ACCELERATORS
    }
    return Inspection(
        model=config.model,
        target=spec.name,
        dtype=config.dtype,
        inputs=state.model.inputs,
        outputs=state.model.outputs,
        parameters=_parameters(nodes),
        operators=operators,
        memory=forecast(nodes, taken, spec.npu),
    )


def _operator(node: Node, spec: SocSpec, onnx_node: str, unfit: Mapping[str, str]) -> Operator:
    work = op_work(node.call)
    reasons = {
        "npu": npu_support.decline_reason(node.call, spec.npu) or unfit.get(node.name),
        "gpu": gpu_support.decline_reason(node.call, spec.gpu),
    }
    ty = node.call.ty
    return Operator(
        name=node.name,
        node=onnx_node,
        op=op_name(node.call),
        shape=static_shape(ty),
        dtype=str(getattr(ty, "dtype", "")),
        macs=work.macs,
        weight_bytes=sum(weight_bytes([node]).values()),
        declined={device: why for device, why in reasons.items() if why is not None},
    )


def _parameters(nodes: list[Node]) -> int:
    """Elements of floating-point constants, each counted once."""
    arrays = (values_of(constant) for constant in weight_bytes(nodes))
    return sum(array.size for array in arrays if array.dtype.kind == "f")
