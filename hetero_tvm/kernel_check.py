"""The process that runs an artefact's kernels: `hetero_tvm.kernel_check`.

Started by `hetero_tvm.first_load`. On standard input a list of kernels, on standard output a line
for each as soon as it is known.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import tvm

from hetero_tvm import runtime


def main(argv: Sequence[str] | None = None) -> int:
    """Check the kernels of the artefact that is named."""
    (path,) = sys.argv[1:] if argv is None else argv
    # Drivers print to standard output; answers go to a copy of it.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    runtime.load()
    runtime.open_opencl()
    module = tvm.runtime.load_module(path)
    error_of = tvm.get_global_func("hetero_tvm.kernel_error")
    for kernel in json.load(sys.stdin):
        reason = str(error_of(module, kernel["function"], json.dumps(kernel["proof"])))
        print(json.dumps({"reason": reason}), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
