"""The cost model with the best figures that can be had: what every verb that plans asks.

the spec's figures              always
the vendor's estimates          of an NPU's matrix products, where asked for; of whole regions
                                by `plan_rounds`
weights of 4 or 8 bits          where the model has them: of a GPU, and of an NPU for so many rows
                                as its spec says
a model of measured kernels     of a GPU, where there are records and xgboost is installed
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from hetero_tvm.errors import BadInput, EnvironmentProblem
from relay_passes.constant_file import looked_at
from relay_passes.constants import values_of
from relay_passes.lower_npu import FindCodes
from relay_passes.npu_onnx import BlockCodes, ChooseForm, ProductForm, htp_form
from relay_passes.op_work import Work, op_name, op_work
from relay_passes.program import Node
from schedules.cost_model import CostModel, takes_codes
from schedules.gpu_model import FEWEST, GpuModelUnavailable, Record, read_records, train
from schedules.npu_costs import NpuCosts, Product
from schedules.npu_estimate import EstimateUnavailable, proxy_for
from schedules.w4a16_table import W4Table
from target_specs.spec import NpuSpec

Tell = Callable[[str], None]


def with_estimates(
    costs: CostModel,
    products: Iterable[Product],
    *,
    cache_dir: Path | None,
    shares: bool = True,
    progress: Tell = lambda line: None,
) -> CostModel:
    """`costs` with the vendor's estimates of `products`; compiles what the cache lacks.

    Args:
        costs: without estimates.
        products: matrix products that will be asked for; `products_of` finds a model's.
        cache_dir: where estimates are kept between runs.
        shares: parts of the products will be asked for, too.
        progress: called with a line whenever a product is estimated.

    Raises:
        BadInput: the target's NPU is none that the vendor's compiler estimates.
        EnvironmentProblem: the vendor's compiler is not installed.
    """
    npu, memory = costs.spec.npu, costs.spec.memory
    try:
        proxy_for(npu)
    except EstimateUnavailable as error:
        raise BadInput(f"--estimate: {error}; plan without it") from None
    estimates = NpuCosts(npu, memory.one_device_gbps, cache_dir=cache_dir, progress=progress)
    try:
        estimates.prepare(products, shares=shares)
    except EstimateUnavailable as error:
        raise EnvironmentProblem(f"--estimate: {error}") from None
    return dataclasses.replace(costs, npu_costs=estimates)


def can_estimate(npu: NpuSpec) -> bool:
    """Whether the vendor's compiler is here, and estimates this NPU."""
    try:
        proxy_for(npu)
    except EstimateUnavailable:
        return False
    return importlib.util.find_spec("onnxruntime_qnn") is not None


def product_form(costs: CostModel) -> ChooseForm:
    """How a product is written: with the weight on the left where its estimate is less there."""

    def form(call: relax.Call) -> ProductForm:
        work = op_work(call)
        if work.depth and work.columns:
            cost = costs.npu_matmul(work.rows, work.depth, work.columns, str(call.args[1].ty.dtype))
            if cost.provenance == "vendor-estimated" and cost.order == "left":
                return "swapped"
        return htp_form(call)

    return form


def products_of(costs: CostModel, works: Iterable[Work]) -> list[Product]:
    """The distinct matrix products that a model's operators are on the NPU, in their order."""
    found = (costs.npu_product(work) for work in works)
    return list(dict.fromkeys(product for product in found if product is not None))


def block_codes(npu: NpuSpec, table: W4Table) -> FindCodes:
    """The codes of a product's weight, where `npu` is to compute with them.

    Only codes, scales and zero points that the operator takes bit for bit.
    """

    def find(call: relax.Call) -> BlockCodes | None:
        data, right = call.args
        rows = op_work(call).rows
        if not isinstance(right, GenericConst) or not takes_codes(npu, rows):
            return None
        weight = table.find(values_of(right))
        if weight is None:
            return None
        blocks = weight.to_blocks()
        if blocks is None:
            return None
        codes, scales, zeros = blocks
        held = scales.astype(str(data.ty.dtype))
        # A depth that is no whole number of groups was not tried on an HTP.
        if not np.array_equal(held, scales) or len(weight.codes) % weight.group:
            return None
        return BlockCodes(codes=codes, scales=held, zeros=zeros, bits=weight.bits)

    return find if len(table) else lambda call: None


def with_packed_weights(costs: CostModel, nodes: Iterable[Node], table: W4Table) -> CostModel:
    """`costs` of a program in which devices read the codes of `table`."""
    packed = {}
    for node in nodes if len(table) else ():
        right = node.call.args[-1] if op_name(node.call) == "relax.matmul" else None
        if isinstance(right, GenericConst):
            matrix = values_of(right)
            nbytes = table.packed_bytes(matrix)
            if nbytes is not None:
                packed[node.name] = nbytes / matrix.nbytes
            looked_at([right])
    return dataclasses.replace(costs, packed=packed) if packed else costs


def with_measured_kernels(
    costs: CostModel, records: Sequence[Record], *, progress: Tell = lambda line: None
) -> CostModel:
    """`costs` with a model trained on `records`; unchanged, with a line, where none can be."""
    if len(records) < FEWEST:
        return costs
    try:
        model = train(records)
    except GpuModelUnavailable as error:
        progress(f"GPU kernels are modelled by the roofline alone: {error}")
        return costs
    progress(model.summary)
    return dataclasses.replace(costs, gpu_model=model)


def load_records(path: Path) -> list[Record]:
    """Measured GPU kernels of a file, or of a folder's `*.jsonl` files.

    Raises:
        BadInput: they cannot be read, or are no records.
    """
    try:
        return read_records(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadInput(str(error)) from None
