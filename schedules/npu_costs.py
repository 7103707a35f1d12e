"""What a matrix product of any size takes on the NPU, from the vendor's compile-time estimates.

A product is estimated alone, as a graph of one operator, in both orders of its operands, because
the compiler keeps the right one in the matrix unit and packs it (arXiv 2501.14794: up to 6x):

    "right"   [rows, depth] x [depth, columns]          the weight is the right operand
    "left"    [columns, depth] x [depth, rows]          (weightᵀ x activationᵀ): it is the left one

Up to 32 rows the activation of "right" is laid out [1, 8, rows / 8, depth], which fills the unit's
tile; as a matrix it would fill an eighth of it.

Few sizes are estimated, those of a grid and those that were asked for; the rest is interpolated.
Rows go in steps of 32, as the unit does: 33 rows cost what 64 do, and only between row counts that
are multiples of 32 does time lie on a line. Along columns time lies on a line between estimates.
Beyond the grid it grows in proportion: twice 512 rows take 1.01 times the double on QCS9100.

A product alone reads and writes its activations in memory; inside a region they stay on the chip,
and what crosses the region's border is paid apart. So that part is taken off (`Proxy.alone_us`).

Convolutions have no estimates here: alone, most of a convolution's time is its activations' way to
and from memory and into the unit's layout, and those with windows lack the costs of operators. They
get theirs inside their regions (`npu_region_costs`); the spec's `conv_gflops`, from the vendor's
estimates of chains, says how parts compare with the whole.

From the proxy's time to the target's: the larger one of

    estimate x the scale of `npu_estimate`          (two plain products then run at the spec's rate)
    bytes to and from memory / one_device_gbps      (the target's memory, not the proxy's)

An estimate that lacks the costs of some operators is a lower bound. It never beats one that lacks
none, and between two of them the order that models are written in, "right", is taken.

Requires: `prepare` before `product`; what was not prepared has no estimate.
Ensures:  the same estimates for the same products, kept on disk by graph, SoC and QNN version.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from onnx import GraphProto, TensorProto, helper

from schedules.npu_estimate import NpuEstimate, estimate_models, proxy_for, scale_to
from schedules.npu_profile import WEIGHTS_FILE
from schedules.work import OpWork
from target_specs.spec import NpuSpec

Order = Literal["right", "left"]
WEIGHT_BITS = (4, 8, 16, 32)
ROW_STEP = 32
ROWS = (32, 64, 128, 256, 512)  # the grid
COLUMNS = (512, 1024, 2048, 4096, 8192, 16384)
_BATCH = 24  # what an interrupt loses at most
_NBITS_BLOCK = {4: 32, 8: 128}  # weights that share a scale


class Product(NamedTuple):
    """`[rows, depth] x [depth, columns]` with a constant right operand."""

    rows: int
    depth: int
    columns: int
    weight_bits: int = 16  # 32 is computed as 16; 4 and 8 have float16 activations


def product_of(work: OpWork) -> Product | None:
    """The product that an operator is; None where it is none with one constant weight."""
    weights = work.depth * work.columns
    if work.kind != "matmul" or not weights or work.macs != work.rows * weights:
        return None
    bits = work.weight_bytes * 8 // weights
    return Product(work.rows, work.depth, work.columns, bits) if bits in WEIGHT_BITS else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NpuCost:
    """What a product costs on the NPU. Without submission; alone on the device."""

    compute_us: float  # of the target
    memory_bytes: int  # to and from memory: weights and spills
    spill_bytes: int  # of these: what did not fit on the chip and was written and read again
    gbps: float  # of memory, with one device at work
    order: Order
    provenance: Literal["vendor-estimated", "modelled"]
    why: str
    fixed_us: float = 0.0  # beside both
    lower_bound: bool = False  # some operators inside have no cost

    @property
    def us(self) -> float:
        """With the memory for itself."""
        return self.us_with(1.0)

    def us_with(self, share: float) -> float:
        """With a share of its rate to memory."""
        memory_us = self.memory_bytes / (self.gbps * share) / 1e3
        return max(self.compute_us, memory_us) + self.fixed_us


@dataclasses.dataclass(frozen=True)
class _Point:
    """An estimate, or what was interpolated between estimates; the proxy's time."""

    us: float
    memory_bytes: float
    spill_bytes: float
    missing_ops: int

    def towards(self, other: _Point, way: float) -> _Point:
        """On the line to `other`; `way` 0 is here, 1 is there."""
        return _Point(
            self.us + way * (other.us - self.us),
            self.memory_bytes + way * (other.memory_bytes - self.memory_bytes),
            self.spill_bytes + way * (other.spill_bytes - self.spill_bytes),
            max(self.missing_ops, other.missing_ops),
        )

    def times(self, factor: float) -> _Point:
        """As much again."""
        return _Point(
            self.us * factor,
            self.memory_bytes * factor,
            self.spill_bytes * factor,
            self.missing_ops,
        )


class NpuCosts:
    """Estimates of products for one NPU, as far as `prepare` was asked for them."""

    def __init__(
        self,
        npu: NpuSpec,
        one_device_gbps: float,
        *,
        cache_dir: Path | None,
        progress: Callable[[str], None] = lambda line: None,
        timeout_s: float = 60.0,
    ) -> None:
        """Estimates for `npu`.

        Args:
            npu: the target's NPU.
            one_device_gbps: of the target's memory.
            cache_dir: where estimates are kept; None keeps none.
            progress: called with a line whenever a product is estimated.
            timeout_s: for one product, after which it has no estimate.

        Raises:
            EstimateUnavailable: `npu` is not Qualcomm's, or of a generation without a cost table.
        """
        self._proxy, _ = proxy_for(npu)
        self._npu = npu
        self._gbps = one_device_gbps
        self._cache_dir = cache_dir
        self._progress = progress
        self._timeout_s = timeout_s
        self._scale = scale_to(npu, self._proxy)
        # (order, depth, bits) -> rows -> columns -> estimate
        self._points: dict[tuple[Order, int, int], dict[int, dict[int, _Point]]] = {}
        self._asked: set[tuple[Order, Product]] = set()

    def prepare(self, products: Iterable[Product], *, shares: bool = True) -> int:
        """Estimate what `products` need.

        Args:
            products: whole operators.
            shares: any part of their rows or columns will be asked for, too.

        Returns:
            How many estimates these products rest on.

        Raises:
            EstimateUnavailable: onnxruntime-qnn is not installed.
        """
        needed = {
            (order, point)
            for product in products
            for point in _grid(_normal(product), shares)
            for order in _orders(point.weight_bits)
        }
        fresh = sorted(needed - self._asked)
        # Fewest bytes first: what a caller sees of progress begins at once.
        fresh.sort(key=lambda item: item[1].depth * item[1].columns * item[1].rows)
        for start in range(0, len(fresh), _BATCH):
            self._estimate(fresh[start : start + _BATCH], start, len(fresh))
        self._asked |= needed
        return len(needed)

    def product(self, product: Product) -> NpuCost | None:
        """What `product` costs, in its better order; None where no estimate was prepared."""
        rows, depth, columns, bits = _normal(product)
        found: dict[Order, _Point] = {}
        for order in _orders(bits):
            by_rows = self._points.get((order, depth, bits), {})
            point = _at_rows(by_rows, rows, columns)
            if point is not None:
                found[order] = point
        if not found:
            return None
        complete = {order: point for order, point in found.items() if not point.missing_ops}
        if complete:
            order = min(complete, key=lambda name: complete[name].us)
        else:
            order = "right" if "right" in found else "left"
        point = found[order]
        bound = f", a lower bound: {point.missing_ops} without a cost" if point.missing_ops else ""
        return NpuCost(
            compute_us=max(point.us * self._scale.factor, self._npu.op_us),
            memory_bytes=round(point.memory_bytes),
            spill_bytes=round(point.spill_bytes),
            gbps=self._gbps,
            order=order,
            provenance="vendor-estimated",
            why=f"Qualcomm's estimate for {self._proxy.name}{bound}; {self._scale.rule}",
            lower_bound=point.missing_ops > 0,
        )

    def _estimate(self, batch: list[tuple[Order, Product]], done: int, total: int) -> None:
        counter = itertools.count(done + 1)
        found = estimate_models(
            {str(i): _model(order, point) for i, (order, point) in enumerate(batch)},
            self._npu,
            cache_dir=self._cache_dir,
            progress=lambda _: self._progress(
                f"estimated {next(counter)} of {total} matrix products"
            ),
            timeout_s=self._timeout_s,
            weight_bytes=max(2 * point.depth * point.columns for _, point in batch),
        )
        for (order, point), estimate in zip(batch, found.values(), strict=True):
            if isinstance(estimate, NpuEstimate):
                self._keep(order, point, estimate)

    def _keep(self, order: Order, point: Product, estimate: NpuEstimate) -> None:
        profile = estimate.profile
        spills = profile.intermediate_fill_bytes + profile.intermediate_spill_bytes
        moved = profile.input_fill_bytes + spills + profile.output_spill_bytes
        activations = 2 * point.rows * (point.depth + point.columns)
        alone = self._proxy.alone_us + activations / self._proxy.dma_gbps / 1e3
        by_rows = self._points.setdefault((order, point.depth, point.weight_bits), {})
        by_rows.setdefault(point.rows, {})[point.columns] = _Point(
            us=max(profile.us - alone, 0.0),
            memory_bytes=max(moved - activations, 0),
            spill_bytes=spills,
            missing_ops=profile.missing_ops,
        )


# --- the grid ----------------------------------------------------------------------------------


def _normal(product: Product) -> Product:
    """Rows padded to the unit's step; float32 as it is computed."""
    bits = 16 if product.weight_bits == 32 else product.weight_bits
    padded = -(-product.rows // ROW_STEP) * ROW_STEP
    return Product(padded, product.depth, product.columns, bits)


def _grid(product: Product, shares: bool) -> list[Product]:
    """The products to estimate, so that `product` and, with `shares`, its parts are between."""
    rows = {min(product.rows, ROWS[-1])}
    columns = {min(product.columns, COLUMNS[-1])}
    if shares:
        rows |= {size for size in ROWS if size < product.rows}
        columns |= {size for size in COLUMNS if size < product.columns}
    return [
        Product(row, product.depth, column, product.weight_bits)
        for row, column in itertools.product(sorted(rows), sorted(columns))
    ]


def _at_rows(by_rows: Mapping[int, Mapping[int, _Point]], rows: int, columns: int) -> _Point | None:
    points = {row: _at_columns(by_columns, columns) for row, by_columns in by_rows.items()}
    known = {row: point for row, point in points.items() if point is not None}
    return _between(known, rows, ROWS[-1])


def _at_columns(by_columns: Mapping[int, _Point], columns: int) -> _Point | None:
    return _between(by_columns, columns, COLUMNS[-1])


def _between(points: Mapping[int, _Point], size: int, last: int) -> _Point | None:
    """At `size`, on the line between neighbours; the smallest point for all below it.

    Above all points in proportion, but only where the grid's `last` size is among them.
    """
    if size in points:
        return points[size]
    below = max((s for s in points if s < size), default=None)
    above = min((s for s in points if s > size), default=None)
    if above is None:
        return points[below].times(size / below) if below == last else None
    if below is None:
        return points[above]
    return points[below].towards(points[above], (size - below) / (above - below))


# --- graphs ------------------------------------------------------------------------------------


def _orders(bits: int) -> tuple[Order, ...]:
    return ("right", "left") if bits == 16 else ("right",)  # MatMulNBits knows one order


def _model(order: Order, product: Product) -> bytes:
    """A graph of the one product; its weight lies in the file `WEIGHTS_FILE`."""
    rows, depth, columns, bits = product
    half = TensorProto.FLOAT16
    if bits != 16:
        return _nbits_model(product)
    if order == "left":
        weight, x, y = [columns, depth], [depth, rows], [columns, rows]
    else:
        lead = [1, 8, rows // 8] if rows <= ROW_STEP else [rows]
        weight, x, y = [depth, columns], [*lead, depth], [*lead, columns]
    operands = ["w", "x"] if order == "left" else ["x", "w"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", operands, ["y"])],
        "product",
        [helper.make_tensor_value_info("x", half, x)],
        [helper.make_tensor_value_info("y", half, y)],
        [_weight("w", half, weight, 2 * depth * columns)],
    )
    return _bytes_of(graph, {"": 17})


def _nbits_model(product: Product) -> bytes:
    rows, depth, columns, bits = product
    half = TensorProto.FLOAT16
    block = _NBITS_BLOCK[bits]
    blocks = -(-depth // block)
    packed = block * bits // 8
    graph = helper.make_graph(
        [
            helper.make_node(
                "MatMulNBits", ["x", "w", "scales"], ["y"], domain="com.microsoft",
                K=depth, N=columns, bits=bits, block_size=block,
            )
        ],
        "product",
        [helper.make_tensor_value_info("x", half, [1, rows, depth])],
        [helper.make_tensor_value_info("y", half, [1, rows, columns])],
        [
            _weight("w", TensorProto.UINT8, [columns, blocks, packed], columns * blocks * packed),
            _weight("scales", half, [columns, blocks], 2 * columns * blocks),
        ],
    )  # fmt: skip
    return _bytes_of(graph, {"": 21, "com.microsoft": 1})


def _weight(name: str, dtype: int, shape: list[int], nbytes: int) -> TensorProto:
    tensor = TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": WEIGHTS_FILE, "offset": "0", "length": str(nbytes)}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _bytes_of(graph: GraphProto, opsets: Mapping[str, int]) -> bytes:
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised
