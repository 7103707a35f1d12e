"""Products with 4-bit weights on the NPU: from the codes, against a float weight.

    python benchmarks/coded_products.py                  this host's stand-in, one thread
    python benchmarks/coded_products.py --target NAME    Qualcomm's estimates for a Snapdragon

What `coded_rows` of the targets rests on. On the host both are timed in turns, medians; estimates
are the vendor's at compile time, of one product alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tvm import relax

sys.path.insert(0, str(Path(__file__).parent.parent))
from relay_passes.npu_onnx import BlockCodes, region_to_onnx
from relay_passes.npu_onnx.product import by_columns
from schedules.npu_costs import NpuCosts, Product
from schedules.w4a16 import W4Weight
from target_specs.loader import load_spec
from target_specs.spec import SocSpec

SIZES = ((576, 1536), (1536, 576), (4096, 4096))  # depth, columns
ROWS = (1, 32, 64, 128, 256)
_GROUP, _ROUNDS, _ROUND_S = 32, 9, 0.02


def timed(rows: int, depth: int, columns: int) -> tuple[float, float]:
    """µs from the codes, and from floats, on ONNX Runtime's CPU provider with one thread."""
    rng = np.random.default_rng()
    weight = W4Weight(
        codes=rng.integers(0, 16, (depth, columns)).astype(np.uint8),
        scales=rng.random((depth // _GROUP, columns), dtype=np.float32),
        zeros=rng.integers(0, 16, (depth // _GROUP, columns)).astype(np.uint8),
        group=_GROUP,
    )
    blocks = weight.to_blocks()
    assert blocks is not None
    codes, scales, zeros = blocks
    x = relax.Var("x", relax.TensorType((1, rows, depth), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("region", [x]):
        with builder.dataflow():
            floats = relax.const(weight.dequantised().astype(np.float32))
            result = builder.emit_output(relax.op.matmul(x, floats))
        builder.emit_func_output(result)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    by_codes = BlockCodes(codes=codes, scales=scales, zeros=zeros)
    sessions = [
        onnxruntime.InferenceSession(
            region_to_onnx(
                builder.get()["region"], half_inside=False, product_form=form
            ).SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
        for form in (lambda call: by_codes, by_columns)
    ]
    feeds = {"in0": rng.standard_normal((1, rows, depth), dtype=np.float32)}
    found: list[list[float]] = [[], []]
    for _ in range(_ROUNDS):
        for session, times in zip(sessions, found, strict=True):
            count, begin = 0, time.perf_counter()
            while time.perf_counter() - begin < _ROUND_S:
                session.run(None, feeds)
                count += 1
            times.append((time.perf_counter() - begin) / count * 1e6)
    return statistics.median(found[0]), statistics.median(found[1])


def estimated(spec: SocSpec) -> Iterator[dict[str, Any]]:
    """Qualcomm's estimates: of fewer than 32 rows what 32 take."""
    costs = NpuCosts(spec.npu, spec.memory.one_device_gbps, cache_dir=None)
    for depth, columns in SIZES:
        for rows in ROWS[1:]:
            products = [Product(rows, depth, columns, bits) for bits in (4, 16)]
            costs.prepare(products, shares=False)
            by_codes, floats = (costs.product(product) for product in products)
            if by_codes is None or floats is None:
                sys.stderr.write(f"{rows}x{depth}x{columns}: no estimate\n")
                continue
            yield _row(rows, depth, columns, by_codes.us, floats.us)


def _row(rows: int, depth: int, columns: int, codes_us: float, floats_us: float) -> dict[str, Any]:
    size = {"rows": rows, "depth": depth, "columns": columns}
    return {**size, "codes_us": codes_us, "floats_us": floats_us, "ratio": codes_us / floats_us}


def main() -> None:
    """Measure, or ask the vendor's compiler, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", default="host")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    spec = load_spec(args.target)
    if spec.npu.provider == "qnn":
        found = list(estimated(spec))
    else:
        sizes = [(rows, *size) for size in SIZES for rows in ROWS]
        found = [_row(*size, *timed(*size)) for size in sizes]
    if args.json:
        print(json.dumps({"target": spec.name, "products": found}, indent=1))
        return
    print(f"{'product':<18}{'codes us':>11}{'floats us':>11}{'ratio':>8}")
    for row in found:
        name = "{rows}x{depth}x{columns}".format(**row)
        print(f"{name:<18}{row['codes_us']:11.0f}{row['floats_us']:11.0f}{row['ratio']:8.2f}")


if __name__ == "__main__":
    main()
