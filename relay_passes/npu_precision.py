"""Which operators float16 would harm too much to go to the NPU.

An NPU that keeps values in float16 adds one rounding per operator. Most models take that well; in
a few, some operators (often early ones whose results cancel later) pass their rounding on a
hundredfold. This finds them by running the program on random inputs with stretches of it in
float16 (`half_emulator`). Errors of different stretches are independent, so their squares add up.

    everything in float16 is within the budget?  -> nothing to give up
    while the sum over the runs exceeds it: halve the worst run, or give it up if it is short
    while the rest, run together, exceeds it: give up the worst

Runs are contiguous in program order, so that what is given up is a few stretches and does not
shred the NPU's regions.

Requires: `main` of static straight-line code in float32; inputs as the model expects them.
Ensures:  with the operators named kept off the NPU, every output is predicted to stay within the
budget on the inputs given; the same module and inputs give the same answer.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tvm import IRModule, relax

from relay_passes import npu_support
from relay_passes.half_emulator import HalfEmulator, bindings_of, missing_ops
from target_specs.spec import NpuSpec

logger = logging.getLogger(__name__)

TOLERANCE = 1e-2  # what a model's outputs may be off by: relative, norm
# Other inputs are up to twice as sensitive, and a form of several steps rounds more than once.
BUDGET = 0.4 * TOLERANCE
_FIRST_RUNS = 24
_SHORT = 4  # operators: below that a run is not halved again


def precision_declines(
    mod: IRModule,
    npu: NpuSpec,
    inputs: Sequence[Mapping[str, np.ndarray]],
    budget: float = BUDGET,
    *,
    strict: bool = False,
) -> dict[str, str]:
    """Binding name -> why that operator must stay off the NPU; empty when all may go.

    Args:
        mod: the program, before anything is placed.
        npu: the NPU; one that computes in float32 declines nothing here.
        inputs: sets of inputs, by parameter name; the worst of them counts. Two are enough.
        budget: relative error (norm) that every floating-point output may have.
        strict: for inputs that a user vouches for. Outputs of whole numbers and booleans must not
            change at all; else they do not count, since made-up inputs say little about where a
            number is rounded or which is largest. See `HalfEmulator`.
    """
    main = mod["main"]
    if not npu_support.is_half_inside(npu):
        return {}
    if missing := missing_ops(main):
        logger.warning("float16 error is not predicted: no emulation of %s", sorted(missing))
        return {}
    names = [
        binding.var.name
        for binding in bindings_of(main)
        if isinstance(binding.value, relax.Call)
        and npu_support.decline_reason(binding.value, npu) is None
    ]
    if not names:
        return {}
    emulator = HalfEmulator(main, names, inputs, strict=strict)
    if not strict and emulator.error([range(len(names))]) <= budget:
        return {}
    given_up = _give_up(_runs(len(names)), emulator.error, budget)
    return {
        names[index]: f"float16 here alone changes the model's outputs by {share:.1e}"
        if math.isfinite(share)
        else "float16 here alone makes an output of the model a wrong number"
        for run, share in given_up
        for index in run
    }


def _runs(count: int) -> list[range]:
    """`count` operators as at most `_FIRST_RUNS` contiguous runs."""
    edges = np.linspace(0, count, min(count, _FIRST_RUNS) + 1).astype(int).tolist()
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def _give_up(
    runs: list[range], error: Callable[[Sequence[range]], float], budget: float
) -> list[tuple[range, float]]:
    """The runs that must go so that the others' errors add up to at most `budget`."""
    known = {run: error([run]) for run in runs}
    given_up: list[tuple[range, float]] = []

    def pop_worst() -> tuple[range, float]:
        worst = max(known, key=lambda run: (known[run], -run.start))
        return worst, known.pop(worst)

    while known and sum(value**2 for value in known.values()) > budget**2:
        worst, value = pop_worst()
        if len(worst) <= _SHORT:
            given_up.append((worst, value))
            continue
        middle = (worst.start + worst.stop) // 2
        for half in (range(worst.start, middle), range(middle, worst.stop)):
            known[half] = error([half])
    while known and error(list(known)) > budget:
        given_up.append(pop_worst())
    return sorted(given_up, key=lambda found: found[0].start)
