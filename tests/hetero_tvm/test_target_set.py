"""Targets that one artefact may be for, and those that it may not."""

import dataclasses

import pytest

from hetero_tvm import target_set
from hetero_tvm.errors import BadInput, TargetUnusable
from target_specs.loader import list_specs, load_spec

GEN_2, GEN_3 = load_spec("snapdragon-8-gen-2"), load_spec("snapdragon-8-gen-3")


def test_all_snapdragons_go_together():
    target_set.check([load_spec(name) for name in list_specs() if name.startswith("snapdragon-")])
    target_set.check([load_spec("host")])


def test_refusals_name_what_differs():
    with pytest.raises(BadInput, match="snapdragon-8-gen-2 is named twice"):
        target_set.check([GEN_3, GEN_2, GEN_2])
    for pair in ([GEN_3, load_spec("host")], [load_spec("host"), GEN_3]):
        with pytest.raises(TargetUnusable, match="host has no NPU that is compiled for"):
            target_set.check(pair)
    wide = dataclasses.replace(GEN_2, gpu=dataclasses.replace(GEN_2.gpu, wave_size=128))
    with pytest.raises(TargetUnusable, match=r"differ in \[gpu\] wave_size \(64 and 128\), by whi"):
        target_set.check([GEN_3, wide])


def test_what_only_decides_about_the_plan_may_differ():
    fast = dataclasses.replace(GEN_2, gpu=dataclasses.replace(GEN_2.gpu, matmul_gflops=9000.0))
    target_set.check([GEN_3, fast])


def test_described_as_the_runtime_reads_it():
    assert target_set.described(GEN_3) == {
        "name": "snapdragon-8-gen-3",
        "soc": "SM8650",
        "htp_arch": 75,
        "soc_ids": [557],
        "options": {"soc_model": "57"},
    }
