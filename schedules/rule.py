"""What every schedule rule is: a function from one PrimFunc to a schedule, or `None`.

A rule is written as `schedule(func) -> Schedule | None`; the base class tests the target once, so
that no rule can forget it, and turns the refusal of a TIR primitive into `None`, so that the next
rule gets its turn instead of the build ending.
"""

from __future__ import annotations

import logging
from typing import ClassVar

import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.target import Target

from schedules.byte_vectors import without_byte_vectors
from schedules.conditions import scalar_conditions
from schedules.infinities import infinite_identities
from schedules.opencl_math import opencl_math

logger = logging.getLogger(__name__)


class Rule(ScheduleRule):
    """A schedule rule for the targets of one kind.

    Subclasses give `kind` (a TVM target kind) and `schedule`.
    """

    kind: ClassVar[str]
    takes_infinities: ClassVar[bool] = True  # as what a maximum begins at
    takes_pairs: ClassVar[bool] = False  # blocks with two results, as an argmin and its value

    def apply(
        self, func: tirx.PrimFunc, target: Target, _tunable: bool = False
    ) -> s_tir.Schedule | None:
        """The scheduled function; None where the target or the function is not this rule's."""
        if target.kind.name != self.kind:
            return None
        if has_pairs(func) and not self.takes_pairs:
            return None
        try:
            if self.kind != "opencl":
                return self.schedule(func)
            schedule = self.schedule(prepared(func, infinities=self.takes_infinities))
            return None if schedule is None else without_byte_vectors(schedule)
        except s_tir.ScheduleError as error:
            # A primitive said no: this is an answer about the function, not a failure.
            logger.debug("%s declines: %s", type(self).__name__, str(error).splitlines()[:1])
            return None

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        """Schedule `func`, whose target is known to be right; None declines."""
        raise NotImplementedError


def prepared(func: tirx.PrimFunc, *, infinities: bool = True) -> tirx.PrimFunc:
    """`func` in a form that TVM's OpenCL code generator gets right, whoever schedules it."""
    func = opencl_math(scalar_conditions(func))
    return infinite_identities(func) if infinities else func


def has_pairs(func: tirx.PrimFunc) -> bool:
    """Whether a block of `func` has two results."""
    found: list[bool] = []
    tvm_ffi.structural_walk(
        func.body, (s_tir.SBlock, lambda block: found.append(len(block.writes) > 1))
    )
    return any(found)
