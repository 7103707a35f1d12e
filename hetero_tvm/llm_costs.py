"""What a language model's architecture costs by the vendor's estimates of its products.

No weights: the products' sizes follow from the architecture, those of one layer serve all. Cold,
the vendor's compiler takes seconds for each size; what it said, or refused, is kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from hetero_tvm.costs import with_estimates
from hetero_tvm.llm_graph import NPU_LENGTHS
from schedules.cost_model import CostModel
from schedules.npu_costs import Product
from target_specs.llm import LlmSpec
from target_specs.spec import SocSpec


def llm_products(llm: LlmSpec, prompts: Iterable[int]) -> list[Product]:
    """The products of a layer for prompts of these lengths, and for one token; each once."""
    graphs = {min((n for n in NPU_LENGTHS if n >= p), default=NPU_LENGTHS[-1]) for p in prompts}
    qkv = llm.query_columns + 2 * llm.key_columns
    shapes = [
        (llm.hidden, qkv),
        (llm.query_columns, llm.hidden),
        (llm.hidden, 2 * llm.ffn),  # gate and up are one product
        (llm.ffn, llm.hidden),
    ]
    found = [Product(r, k, n, llm.weight_bits) for r in (1, *sorted(graphs)) for k, n in shapes]
    found.append(Product(1, llm.hidden, llm.vocabulary, llm.weight_bits))
    return list(dict.fromkeys(found))


def estimated_costs(
    spec: SocSpec,
    llm: LlmSpec,
    prompts: Iterable[int],
    *,
    cache_dir: Path | None,
    progress: Callable[[str], None] = lambda line: None,
) -> CostModel:
    """The target's cost model with the estimates of `llm_products`, and of parts of them.

    Raises:
        BadInput: the target's NPU is none that the vendor's compiler estimates.
        EnvironmentProblem: the vendor's compiler is not installed.
    """
    return with_estimates(
        CostModel(spec), llm_products(llm, prompts), cache_dir=cache_dir, progress=progress
    )
