"""A spec survives the disk, sources and all."""

import dataclasses

import pytest

from target_specs.loader import list_specs, load_spec
from target_specs.spec import Origin
from target_specs.writer import to_toml


def round_trip(tmp_path, spec):
    path = tmp_path / "spec.toml"
    path.write_text(to_toml(spec), encoding="utf-8")
    return load_spec(path)


@pytest.mark.parametrize("name", list_specs())
def test_round_trip(tmp_path, name):
    spec = load_spec(name)
    again = round_trip(tmp_path, spec)
    assert again == spec
    for table in ("memory", "gpu", "npu"):
        old, new = getattr(spec, table), getattr(again, table)
        assert old.figures() == new.figures()
        for key in old.figures():
            assert old.origin(key) == new.origin(key)


def test_rates_at_rows_and_odd_texts(tmp_path):
    spec = load_spec("host")
    odd = Origin("measured", 'a "quoted" \\ name [HI], µs')
    gpu = dataclasses.replace(
        spec.gpu, matmul_at_rows=((1, 2.5), (64, 300.0)), origins={"matmul_at_rows": odd}
    )
    again = round_trip(tmp_path, dataclasses.replace(spec, gpu=gpu))
    assert again.gpu.matmul_at_rows == ((1, 2.5), (64, 300.0))
    # What would look like a citation is none.
    assert again.gpu.origin("matmul_at_rows").source == 'a "quoted" \\ name (HI), µs'
