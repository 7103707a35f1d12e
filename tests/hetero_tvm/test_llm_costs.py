"""The products that a language model's plan is priced by, and that a second plan compiles none."""

import dataclasses
import importlib.metadata
import importlib.util

import pytest

from hetero_tvm.errors import BadInput
from hetero_tvm.llm_costs import estimated_costs, llm_products
from hetero_tvm.llm_graph import NPU_LENGTHS
from schedules import npu_estimate
from schedules.npu_costs import Product
from schedules.npu_profile import NoEstimate, Profile
from target_specs.llm import load_llm
from target_specs.loader import load_spec

GEN3 = load_spec("snapdragon-8-gen-3")
LLAMA = load_llm("llama-3-8b")
_PROFILE = Profile(
    us=500,
    low_us=450,
    high_us=550,
    input_fill_bytes=1000,
    intermediate_fill_bytes=0,
    intermediate_spill_bytes=0,
    output_spill_bytes=1000,
    missing_ops=0,
)


@pytest.fixture
def compiled(monkeypatch):
    """Stands for the vendor's compiler, which refuses every third model; what it was given."""
    given = []

    def profile_models(waiting, options, timeout_s, progress, **_more):
        given.extend(waiting)
        refusal = NoEstimate("QNN_COMMON_ERROR_MEM_ALLOC", refused=True)
        return {key: refusal if int(key, 16) % 3 == 0 else _PROFILE for key in waiting}

    monkeypatch.setattr(npu_estimate, "profile_models", profile_models)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "1")
    return given


def test_products_follow_from_the_architecture():
    assert llm_products(LLAMA, [300]) == [
        Product(1, 4096, 6144, 4),
        Product(1, 4096, 4096, 4),
        Product(1, 4096, 28672, 4),
        Product(1, 14336, 4096, 4),
        Product(512, 4096, 6144, 4),
        Product(512, 4096, 4096, 4),
        Product(512, 4096, 28672, 4),
        Product(512, 14336, 4096, 4),
        Product(1, 4096, 128256, 4),
    ]


def test_lengths_of_one_graph_are_one():
    assert llm_products(LLAMA, [65, 100, 128]) == llm_products(LLAMA, [128])
    assert {product.rows for product in llm_products(LLAMA, [5000])} == {1, 1024}


def test_a_second_plan_of_all_lengths_compiles_nothing(compiled, tmp_path):
    cold = estimated_costs(GEN3, LLAMA, NPU_LENGTHS, cache_dir=tmp_path)
    assert len(compiled) == len(set(compiled)) > 40
    asked = len(compiled)
    warm = estimated_costs(GEN3, LLAMA, NPU_LENGTHS, cache_dir=tmp_path)
    assert len(compiled) == asked
    for product in llm_products(LLAMA, NPU_LENGTHS):
        assert warm.npu_costs.product(product) == cold.npu_costs.product(product)


def test_a_target_without_estimates_is_refused():
    with pytest.raises(BadInput, match=r"--estimate: .*plan without it"):
        estimated_costs(load_spec("host"), LLAMA, [256], cache_dir=None)


def test_weights_of_sixteen_bits_are_estimated_in_both_orders(compiled, tmp_path):
    wide = dataclasses.replace(LLAMA, weight_bits=16)
    estimated_costs(GEN3, LLAMA, [32], cache_dir=tmp_path)
    narrow = len(compiled)
    estimated_costs(GEN3, wide, [32], cache_dir=tmp_path)
    assert len(compiled) - narrow == 2 * narrow
