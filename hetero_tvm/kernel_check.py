"""The process that runs an artefact's kernels against their functions: `hetero_tvm.kernel_check`.

Started by `hetero_tvm.first_load`. On standard input a list of kernels, on standard output a line
for each as soon as it is known.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import numpy as np
import tvm
from tvm import IRModule

from hetero_tvm import first_load, runtime
from schedules.measure import Outcome
from schedules.verify import Reference, verify


def main(argv: Sequence[str] | None = None) -> int:
    """Check the kernels of the artefact that is named."""
    (path,) = sys.argv[1:] if argv is None else argv
    # Drivers print to standard output; answers go to a copy of it.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    runtime.load()
    device = runtime.open_opencl()
    module = tvm.runtime.load_module(path)
    for number, kernel in enumerate(json.load(sys.stdin)):
        reason = _reason(module, device, kernel, number)
        print(json.dumps({"reason": reason}), file=answers, flush=True)
    return 0


def _reason(
    module: tvm.runtime.Module, device: tvm.runtime.Device, kernel: dict[str, str], number: int
) -> str:
    """Why a kernel is wrong; empty where it is right."""
    reference = Reference(first_load.unpacked(kernel["reference"]))
    run = module.get_function(kernel["function"], query_imports=True)

    def outputs(_mod: IRModule, inputs: Sequence[np.ndarray]) -> Outcome:
        given = [tvm.runtime.tensor(array, device) for array in inputs]
        try:
            run(*given)
            runtime.sync()
        except (tvm.error.InternalError, RuntimeError) as error:
            return Outcome(kind="error", error=str(error).strip().splitlines()[-1][:300])
        return Outcome(arrays={place: given[place].numpy() for place in reference.outputs})

    return verify(reference, IRModule(), outputs, seed=1 + number).reason


if __name__ == "__main__":
    sys.exit(main())
