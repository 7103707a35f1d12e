"""What float32 products on the GPU reach of the most that it can compute.

python benchmarks/peak.py [--rows 128] [--size 1024] [--rounds N] [--json]

peak      a loop of multiply-adds on registers, in OpenCL: no memory is read
product   [rows, size] x [size, size] by our kernel, weights in the order that it wants

Both in turns, GFLOP/s of the best rounds; a share near 1 leaves nothing to win in float32. With
`DPCPP_CPU_NUM_CUS=1` it is one core of a host.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from opencl_device import OpenClDevice

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

_SUMS = 16  # of each work-item, independent: enough to hide what one multiply-add takes
_TURNS = 1 << 16
_ITEMS, _GROUPS = 64, 64
_LOOP = f"""
__kernel void multiply_add(__global float* out, __global const float* in) {{
  float sum[{_SUMS}];
  const float x = in[0], y = in[1];
  for (int i = 0; i < {_SUMS}; i++) sum[i] = get_global_id(0) + i;
  for (int turn = 0; turn < {_TURNS}; turn++) {{
    #pragma unroll
    for (int i = 0; i < {_SUMS}; i++) sum[i] = fma(sum[i], x, y);
  }}
  float all = 0;
  for (int i = 0; i < {_SUMS}; i++) all += sum[i];
  out[get_global_id(0)] = all;
}}
"""


def measure(rows: int, size: int, rounds: int) -> dict[str, float | str]:
    """GFLOP/s of both, the best of `rounds`."""
    import numpy as np

    from hetero_tvm import host_bench, runtime
    from target_specs.loader import load_spec

    runtime.open_opencl()
    # What the runtime has opened; on a machine with a driver of its own, the system's loader.
    library = runtime.library_paths()["opencl.fallback_library"] or "libOpenCL.so.1"
    device = OpenClDevice(str(library), gpu=False)
    out = device.buffer(4 * _ITEMS * _GROUPS)
    factors = device.upload(np.array([0.999, 1e-3], np.float32))
    program = device.program(_LOOP)
    loop = device.kernel(program, "multiply_add", [out, factors], (_GROUPS, 1, 1), (_ITEMS, 1, 1))
    loops, products = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        loop()
        device.finish()
        loops.append(2 * _SUMS * _TURNS * _ITEMS * _GROUPS / (time.perf_counter() - start) / 1e9)
        us = host_bench.chains_us(host_bench.matmul(rows, size), load_spec("host"), ("gpu",), 0.3)
        products.append(2 * rows * size**2 / us["gpu"] / 1e3)
    peak, product = max(loops), max(products)
    found = {"peak_gflops": peak, "product_gflops": product, "share": product / peak}
    return {"device": str(device.describe()["device"]), **found}


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure(args.rows, args.size, args.rounds)
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"{found['device']}, GFLOP/s")
    print(f"multiply-adds on registers    {found['peak_gflops']:6.0f}")
    print(f"product of {args.rows:4} rows          {found['product_gflops']:6.0f}")
    print(f"share                         {found['share']:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
