"""Joined caches become caches that are written."""

from __future__ import annotations

import pytest

from relay_passes.attention import UPDATE_KV
from relay_passes.op_work import static_shape
from relay_passes.program import PlacementError
from relay_passes.rewrite_bindings import dataflow_bindings, is_call
from relay_passes.update_kv_in_place import UpdateKvInPlace
from tests.relay_passes.cached_programs import CAPACITY, DEPTH, GROUPS, PAST, program


def test_join_becomes_update_of_a_cache_of_the_whole_length():
    mod = UpdateKvInPlace(["key", "value"], PAST)(program())
    bindings = {binding.var.name: binding.value for binding in dataflow_bindings(mod["main"])}
    for name, cache, rows in (("keys", "key", "k"), ("values", "value", "v")):
        assert is_call(bindings[name], UPDATE_KV)
        assert [arg.name for arg in bindings[name].args] == [cache, rows, PAST]
    params = {param.name: static_shape(param.ty) for param in mod["main"].params}
    assert params["key"] == params["value"] == (1, GROUPS, CAPACITY, DEPTH)


def test_other_joins_stay():
    mod = UpdateKvInPlace(["key"], PAST)(program())
    bindings = {binding.var.name: binding.value for binding in dataflow_bindings(mod["main"])}
    assert is_call(bindings["values"], "relax.concat")


def test_cache_that_is_not_joined_is_refused():
    with pytest.raises(PlacementError, match="no step joins new rows to q"):
        UpdateKvInPlace(["key", "q"], PAST)(program())
