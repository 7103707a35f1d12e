"""What products on the GPU reach of the most that it can compute, in float32 and from 4-bit codes.

python benchmarks/peak.py [--rows 128] [--size 960] [--rounds N] [--json]

peak      a loop of multiply-adds on registers, in OpenCL: no memory is read. For codes, of pairs of
          16-bit whole numbers, as a CPU's kernel adds them up (`schedules/code_pairs.py`)
product   [rows, size] x [size, size] by our kernel, weights in the order that it wants

All in turns, GFLOP/s of the best rounds; a share near 1 leaves nothing to win. From codes it cannot
be 1: each 32 of them share a scale, so 16 steps that multiply and add pairs are followed by 4 that
turn the sum into a float, scale it and correct its zero point, which leaves about 0.8. With
`DPCPP_CPU_NUM_CUS=1` it is one core of a host.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from opencl_device import OpenClDevice

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

_SUMS = 16  # of each work-item, independent: enough to hide what one multiply-add takes
_TURNS = 1 << 16
_ITEMS, _GROUPS = 64, 64
_LANES = 16
_FLOATS = f"""
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
# What is multiplied changes where a sum has a value that none comes to, so no turn can be left out.
_PAIRS = f"""
__kernel void multiply_add(__global int* out, __global const uint* in) {{
  int{_LANES} sum[{_SUMS}];
  uint{_LANES} codes = vload{_LANES}(0, in);
  const uint x = in[{_LANES}];
  for (int i = 0; i < {_SUMS}; i++) sum[i] = (int{_LANES})(get_global_id(0) + i);
  for (int turn = 0; turn < {_TURNS}; turn++) {{
    #pragma unroll
    for (int i = 0; i < {_SUMS}; i++) sum[i] = hetero_add_pairs{_LANES}(sum[i], codes, x);
    codes ^= sum[0].s0 == 12345 ? 1u : 0u;
  }}
  int{_LANES} all = 0;
  for (int i = 0; i < {_SUMS}; i++) all += sum[i];
  out[get_global_id(0)] = all.s0 + all.sf;
}}
"""


def measure(rows: int, size: int, rounds: int) -> dict[str, Any]:
    """GFLOP/s of both kinds, the best of `rounds`."""
    import numpy as np

    from hetero_tvm import host_bench, runtime
    from schedules.code_pairs import pairs_function
    from target_specs.loader import load_spec

    runtime.open_opencl()
    # What the runtime has opened; on a machine with a driver of its own, the system's loader.
    library = runtime.library_paths()["opencl.fallback_library"] or "libOpenCL.so.1"
    device, spec = OpenClDevice(str(library), gpu=False), load_spec("host")
    out = device.buffer(4 * _ITEMS * _GROUPS)
    factors = device.upload(np.array([0.999, 1e-3], np.float32))
    codes = device.upload(np.arange(2 * _LANES, dtype=np.uint32))
    found: dict[str, Any] = {"device": str(device.describe()["device"])}
    kinds = {  # source, operand, work-items of a group, numbers that one of them adds up at once
        "float32": (_FLOATS, factors, _ITEMS, 1, host_bench.matmul(rows, size)),
        "codes": (
            pairs_function(_LANES) + _PAIRS,
            codes,
            _ITEMS // _LANES,
            2 * _LANES,
            host_bench.coded_matmul(rows, size),
        ),
    }
    for kind, (source, operand, items, wide, product) in kinds.items():
        loop = device.kernel(
            device.program(source), "multiply_add", [out, operand], (_GROUPS, 1, 1), (items, 1, 1)
        )
        loops, products = [], []
        for _ in range(rounds):
            start = time.perf_counter()
            loop()
            device.finish()
            sums = _SUMS * wide * _TURNS * items * _GROUPS
            loops.append(2 * sums / (time.perf_counter() - start) / 1e9)
            us = host_bench.chains_us(product, spec, ("gpu",), 0.3)
            products.append(2 * rows * size**2 / us["gpu"] / 1e3)
        peak, best = max(loops), max(products)
        found[kind] = {"peak_gflops": peak, "product_gflops": best, "share": best / peak}
    return found


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--size", type=int, default=960)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure(args.rows, args.size, args.rounds)
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"{found['device']}, products of {args.rows} rows, GFLOP/s")
    print(f"{'':10}{'peak':>8}{'product':>10}{'share':>8}")
    for kind in ("float32", "codes"):
        one = found[kind]
        rates = f"{one['peak_gflops']:8.0f}{one['product_gflops']:10.0f}{one['share']:8.2f}"
        print(f"{kind:10}{rates}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
