"""A model with its tokenizer, and what is said of where it runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fake_llm import FakeSession, says, tokenizer

from hetero_tvm.completion import Options
from hetero_tvm.errors import BadInput
from hetero_tvm.text_model import TextModel, facts_of

_OPS = [
    {"device": "gpu", "macs": 10, "split": None},
    {"device": "gpu+npu", "macs": 100, "split": {"at": 3, "extent": 4}},
    {"device": "cpu", "macs": 0, "split": None},
]


def test_prompts_become_tokens_and_stop_tokens_are_added_to_those_asked_for():
    model = says("dog dog")
    assert model.plain("dog") == tokenizer().encode("dog")
    assert model.chat([{"role": "user", "content": "dog"}])[0] == tokenizer().encode("<|user|>")[0]
    *before, last = tokenizer().encode("dog dog")
    completion = model.complete([5], Options(stop_tokens=[last]))
    list(completion)
    assert completion.tokens == before[: [*before, last].index(last)]


def test_without_a_tokenizer_it_works_on_ids():
    model = TextModel(name="x", session=FakeSession(lambda tokens: 7), tokenizer=None)
    with pytest.raises(BadInput, match="--ids"):
        model.plain("dog")
    completion = model.complete([1], Options(max_new_tokens=2))
    assert list(completion) == ["", "", ""]
    assert completion.tokens == [7, 7]


def test_what_ran_where():
    variant = SimpleNamespace(length=16, plan={"ops": _OPS}, npu_regions=2)
    manifest = SimpleNamespace(
        target="host", npu_provider="cpu", npu_regions=2, variants=(variant,)
    )
    session = SimpleNamespace(manifest=manifest, load_seconds=0.5, cache_bytes=8, capacity=9)
    facts = facts_of(session)
    assert facts["placement"]["16"] == {
        "operators": {"gpu": 1, "gpu+npu": 1, "cpu": 1},
        "macs": {"gpu": 35, "npu": 75, "cpu": 0},
        "npu_regions": 2,
    }
    assert (facts["npu"], facts["cache_bytes"]) == ("cpu", 8)
