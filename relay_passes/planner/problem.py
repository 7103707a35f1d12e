"""What the planner is asked: operators with the ways to run each, and what waiting costs.

Nothing here knows Relax. A *cut* says how a tensor is divided between the two devices:

    Cut(axis=0, at=96, extent=128)      rows 0..95 are the NPU's, rows 96..127 the GPU's

`None` in place of a cut means the whole tensor.

Time is counted on one clock per device, as the runtime works: each device does its work in the
order of the program, nobody waits unless data makes them, and a wait serves everything that the
other device was given before it. `timeline.evaluate` is that rule as code, and what `solve`
minimises.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

DEVICES = ("cpu", "gpu", "npu")
Kind = Literal["weight", "activation", "hybrid"]


@dataclasses.dataclass(frozen=True, order=True)
class Cut:
    """A tensor in two parts along one axis; the NPU has the first, the GPU the second."""

    axis: int
    at: int  # elements of the axis before it are the NPU's; 0 < at < extent
    extent: int

    def __post_init__(self) -> None:
        if not 0 < self.at < self.extent:
            raise ValueError(f"{self}: a cut leaves something on either side")

    @property
    def share(self) -> Fraction:
        """The NPU's."""
        return Fraction(self.at, self.extent)

    def of(self, device: str) -> tuple[int, int]:
        """The part of `device`: first element, and one past the last."""
        return (0, self.at) if device == "npu" else (self.at, self.extent)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One way to run an operator."""

    us: Mapping[str, float]  # device -> time of its part; two devices where the operator is cut
    reads: tuple[Cut | None, ...]  # of each of `Op.inputs`: its own part, or None: all of it
    makes: Cut | None = None  # how the result is cut; None: whole, on the one device in `us`
    kind: Kind | None = None  # of the split; None where there is none
    gather_us: float = 0.0  # paid by a device that needs all of a result that cannot lie in one
    # buffer as two views (the cut is not along the outermost axis that is longer than one)
    joules: float | None = None  # of all parts together; None where power is not known
    alone_us: float = 0.0  # paid by the GPU, beside `us`, where nothing of `Op.mates` was made on
    # it, cut alike: then its part cannot run inside their kernel
    early: Cut | None = None  # the GPU makes the whole in two parts, the one that the NPU is to
    # read first. The next operator reads it, and no other
    late_us: float = 0.0  # of `us`, the second part

    def __post_init__(self) -> None:
        parts = set(self.us)
        if not parts or not parts <= set(DEVICES):
            raise ValueError(f"a choice runs on some of {DEVICES}, not on {sorted(parts)}")
        if (parts == {"gpu", "npu"}) != (self.makes is not None) or len(parts) > 2:
            raise ValueError(f"{sorted(parts)}: GPU and NPU make a cut, one device a whole")
        if len(parts) == 1 and any(read is not None for read in self.reads):
            raise ValueError(f"one device, {sorted(parts)}, reads whole tensors, not cuts")
        if self.early is not None and parts != {"gpu"}:
            raise ValueError(f"{sorted(parts)}: only the GPU makes a part early")
        if self.late_us > (self.us["gpu"] if self.early is not None else 0.0):
            raise ValueError(f"the second part takes {self.late_us}, of {dict(self.us)}")
        times = (*self.us.values(), self.gather_us, self.alone_us, self.late_us)
        if not all(0 <= us < float("inf") for us in times):
            raise ValueError(f"times are finite and not negative: {dict(self.us)}, {times[-3:]}")

    @property
    def cut(self) -> Cut | None:
        """How the result is made in two parts, on two devices or on one; None: in one."""
        return self.makes or self.early

    @property
    def activation_share(self) -> Fraction | None:
        """The first part's share where no weight is cut: of rows, or as an operand was cut."""
        if self.cut is None or self.kind in ("weight", "hybrid"):
            return None
        return self.cut.share

    @property
    def place(self) -> tuple[str, Cut | None, Cut | None]:
        """What tells an operator's choices apart, whatever they cost."""
        return self.device, self.makes, self.early

    @property
    def device(self) -> str:
        """`cpu`, `gpu`, `npu` or, for a split, `gpu+npu`."""
        return "+".join(sorted(self.us))


@dataclasses.dataclass(frozen=True)
class Op:
    """One operator."""

    choices: tuple[Choice, ...]  # at least one
    inputs: tuple[int, ...] = ()  # operators before it whose results it reads, each once
    nbytes: int = 0  # of its result
    reads_graph_inputs: bool = False
    is_output: bool = False
    mates: tuple[int, ...] = ()  # of `inputs`, those in whose GPU kernel it can run
    breaks: bool = False  # on the NPU it begins a region of its own accord


@dataclasses.dataclass(frozen=True, kw_only=True)
class Waiting:
    """What order between devices costs, in µs."""

    # (waiter, on) -> from the end of the last work on `on` to the start of `waiter`'s next work.
    # All six ordered pairs of cpu, gpu, npu are there.
    wait_us: Mapping[tuple[str, str], float]
    region_us: float = 0.0  # submission of an NPU region
    border_us_per_byte: float = 0.0  # of what an NPU region reads or writes outside the chip

    def __post_init__(self) -> None:
        missing = set(itertools.permutations(DEVICES, 2)) - set(self.wait_us)
        if missing:
            raise ValueError(f"no price of waiting for {sorted(missing)}")


@dataclasses.dataclass(frozen=True)
class Problem:
    """The whole question."""

    ops: tuple[Op, ...]  # in the order of the program
    waiting: Waiting

    def __post_init__(self) -> None:
        for index, op in enumerate(self.ops):
            if not op.choices:
                raise ValueError(f"operator {index} has no way to run")
            if len(set(op.inputs)) < len(op.inputs) or not all(0 <= i < index for i in op.inputs):
                raise ValueError(f"operator {index} reads {op.inputs}: each once, all before it")
            if any(len(choice.reads) != len(op.inputs) for choice in op.choices):
                raise ValueError(f"operator {index}: `reads` is not as long as `inputs`")
            for maker in op.inputs:
                if maker != index - 1 and any(c.early for c in self.ops[maker].choices):
                    raise ValueError(f"operator {index} reads {maker}, which is made early")
            if op.is_output and any(c.early for c in op.choices):
                raise ValueError(f"operator {index} is made early, and an output")
