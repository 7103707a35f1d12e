"""Every shipped target loads with its sources, and nothing unexplained does."""

import re

import pytest

from target_specs.loader import SpecError, aliases, list_specs, load_spec, resolve
from target_specs.spec import PROVENANCES

# What onnxruntime-qnn calls the SoCs: number, Hexagon generation.
QNN = {
    "snapdragon-8-gen-2": ("SM8550", 43, 73),
    "snapdragon-8-gen-3": ("SM8650", 57, 75),
    "snapdragon-8-elite": ("SM8750", 69, 79),
    "snapdragon-8-elite-gen-5": ("SM8850", 87, 81),
    "snapdragon-x-elite": ("SC8380XP", 60, 73),
}

GOOD = """
name = "demo"
soc = "D1"
soc_ids = [7]
source = "data sheet"

[sources]
sheet = "data sheet r1.2"

[memory]
source = "[sheet] table 1"
provenance = "published"
peak_gbps = 60.0
one_device_gbps = 40.0
two_devices_gbps = 50.0

[gpu]
name = "G1"
source = "[sheet] table 2"
provenance = "published"
max_work_group_size = 1024
local_memory_bytes = 32768
wave_size = 64
half = true
vector_width = 4
matmul_gflops = { value = 700, provenance = "measured", source = "bench log" }
batched_matmul_gflops = 700.0
conv_gflops = 700.0
float32_rate = 0.5
vector_gbps = 40.0
reduction_gbps = 40.0
launch_us = 15.0
handover_us = 400.0
flag_us = 3.0

[npu]
name = "N1"
source = "[sheet] table 3"
provenance = "vendor-estimated"
provider = "qnn"
soc_model = 57
htp_arch = 75
vtcm_mb = 8
dtypes = ["float16"]
max_rank = 5
tile = 32
matmul_gflops = 4000.0
batched_matmul_gflops = 800.0
conv_gflops = 6000.0
vector_gbps = 190.0
reduction_gbps = 36.0
op_us = 0.7
launch_us = 250.0
handover_us = 75.0
submit_us = 15.0
flag_us = 3.0
"""


def _load(tmp_path, text):
    path = tmp_path / "demo.toml"
    path.write_text(text)
    return load_spec(path)


def test_all_targets_ship():
    assert list_specs()[0] == "host"
    assert set(list_specs()) == {"host", *QNN}


@pytest.mark.parametrize("name", list_specs())
def test_every_figure_has_its_origin(name):
    spec = load_spec(name)
    for table in (spec.memory, spec.gpu, spec.npu):
        for key in table.figures():
            origin = table.origin(key)
            assert origin.provenance in PROVENANCES
            assert origin.source.strip()
            if origin.provenance == "scaled":  # says from what and by what rule
                assert " by " in origin.source or " x " in origin.source, (key, origin.source)
    assert sum(spec.provenance_counts().values()) == sum(
        len(table.figures()) for table in (spec.memory, spec.gpu, spec.npu)
    )


@pytest.mark.parametrize("name", QNN)
def test_qnn_knows_the_soc(name):
    spec = load_spec(name)
    assert (spec.soc, spec.npu.soc_model, spec.npu.htp_arch) == QNN[name]
    assert spec.npu.provider == "qnn"
    assert spec.soc_ids


def test_host_stands_in_for_any_machine():
    host = load_spec("host")
    assert host.npu.provider == "cpu"
    assert host.npu.soc_model is None
    assert host.soc_ids == ()


def test_alias():
    assert aliases() == {"snapdragon": "snapdragon-8-gen-3"}
    assert resolve("snapdragon") == "snapdragon-8-gen-3"
    assert load_spec("snapdragon").soc == "SM8650"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("snapdragon-8-gen3", "snapdragon-8-gen-3"),
        ("Snapdragon_8_Elite", "snapdragon-8-elite"),
        ("hots", "host"),
    ],
)
def test_unknown_target_names_the_nearest(name, nearest):
    with pytest.raises(
        SpecError, match=f"unknown target '{name}'; did you mean {nearest}"
    ) as error:
        resolve(name)
    assert all(known in str(error.value) for known in list_specs())


def test_unknown_target_far_from_all():
    with pytest.raises(SpecError, match="unknown target 'zzz'; targets: host, "):
        resolve("zzz")


def test_figures_own_source_beats_the_tables(tmp_path):
    gpu = _load(tmp_path, GOOD).gpu
    assert gpu.matmul_gflops == 700.0
    assert gpu.origin("matmul_gflops").provenance == "measured"
    assert gpu.origin("matmul_gflops").source == "bench log"
    assert gpu.origin("conv_gflops").source == "data sheet r1.2 table 2"


def test_provenance_is_summed_up(tmp_path):
    assert _load(tmp_path, GOOD).provenance == "1 measured, 16 published, 16 vendor-estimated"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("wave_size = 64", "wavesize = 64", r"demo.toml \[gpu\]: unknown key 'wavesize'; known"),
        ("wave_size = 64", "", r"demo.toml \[gpu\]: missing key 'wave_size'"),
        ("tile = 32", "tile = 0", r"\[npu\]: tile must be a positive number, got 0"),
        ("peak_gbps = 60.0", "peak_gbps = -1", r"\[memory\]: peak_gbps must be a positive number"),
        ("peak_gbps = 60.0", "peak_gbps = nan", r"\[memory\]: peak_gbps must be a positive number"),
        ("tile = 32", "tile = 32.5", r"\[npu\]: tile must be a whole number, got 32.5"),
        ("conv_gflops = 700.0", 'conv_gflops = "fast"', r"\[gpu\]: conv_gflops must be a number"),
        (
            "conv_gflops = 700.0",
            "conv_gflops = 7e12",
            r"\[gpu\]: conv_gflops must be within 0.1 to 200000 \(no phone, .*\), got 7000000",
        ),
        ("wave_size = 64", "wave_size = 4096", r"wave_size must be within 1 to 256 \(work-items"),
        ("half = true", "half = 1", r"\[gpu\]: half must be true or false, got 1"),
        ('dtypes = ["float16"]', "dtypes = []", r"\[npu\]: dtypes must be a list of names"),
        ('source = "[sheet] table 2"', 'source = " "', r"\[gpu\]: source must be a non-empty text"),
        ('source = "[sheet] table 2"', "", r"\[gpu\]: missing key 'source'"),
        ("[sheet] table 2", "[shed] 2", r"\[gpu\]: source cites \[shed\], which \[sources\] does"),
        ('"vendor-estimated"', '"guessed"', r"\[npu\]: provenance must be one of measured, publ"),
        ('provider = "qnn"', 'provider = "tpu"', r"\[npu\]: provider must be one of qnn, cpu"),
        ("soc_model = 57", "", r"\[npu\]: provider 'qnn' needs 'soc_model'"),
        ('provider = "qnn"', 'provider = "cpu"', r"\[npu\]: provider 'cpu' has no use for 'soc_m"),
        ("one_device_gbps = 40.0", "one_device_gbps = 55.0", r"\[memory\]: expected one_device_g"),
        (
            'provenance = "measured", source = "bench log"',
            'provenance = "measured"',
            r"\[gpu\]: matmul_gflops needs value, provenance and source, got provenance, value",
        ),
        ("flag_us = 3.0", "", r"demo.toml \[gpu\]: missing key 'flag_us'"),
        ("submit_us = 15.0", "submit_us = 9e9", r"\[npu\]: submit_us must be within 0.01 to 50000"),
        (
            "tile = 32",
            "tile = 32\npower_w = 1e4",
            r"\[npu\]: power_w must be within 0.05 to 500 \(w",
        ),
        (
            "half = true",
            "half = true\nboth_rate = 1.5",
            r"\[gpu\]: both_rate must be within 0.05 to 1",
        ),
        (
            "half = true",
            "half = true\nmatmul_at_rows = 7",
            r"\[gpu\]: matmul_at_rows must be a list of \[rows, rate\], got 7",
        ),
        (
            "tile = 32",
            "tile = 32\nmatmul_at_rows = []",
            r"\[npu\]: matmul_at_rows must be a list of",
        ),
        (
            "half = true",
            "half = true\nmatmul_at_rows = [[64, 10], [1, 5]]",
            r"\[gpu\]: matmul_at_rows must have ascending positive whole rows, got \[64, 1\]",
        ),
        (
            "half = true",
            'half = true\nmatmul_at_rows = [[64, "x"]]',
            r"\[gpu\]: matmul_at_rows at 64 rows must be a number, got 'x'",
        ),
        ("soc_ids = [7]", "", r"demo.toml: soc_ids must be a list of positive whole numbers"),
        ('soc = "D1"', "", r"demo.toml: soc must be a non-empty text, got None"),
        (
            "[memory]",
            "[ram]",
            r"demo.toml: unknown key 'ram'; known keys: name, soc",
        ),
        ("[memory]", "[memory", r"demo.toml: not valid TOML"),
    ],
)
def test_refuses(tmp_path, old, new, message):
    assert GOOD.count(old) >= 1
    with pytest.raises(SpecError, match=message):
        _load(tmp_path, GOOD.replace(old, new, 1))


def test_rates_at_rows(tmp_path):
    text = GOOD.replace("half = true", "half = true\nmatmul_at_rows = [[1, 5], [64, 10.5]]")
    gpu = _load(tmp_path, text).gpu
    assert gpu.matmul_at_rows == ((1, 5.0), (64, 10.5))
    assert gpu.origin("matmul_at_rows").provenance == "published"
    assert _load(tmp_path, GOOD).gpu.matmul_at_rows is None


def test_missing_table_and_file(tmp_path):
    without = re.sub(r"(?s)\[gpu\].*?(?=\[npu\])", "", GOOD)
    with pytest.raises(SpecError, match=r"demo.toml: missing table \[gpu\]"):
        _load(tmp_path, without)
    with pytest.raises(SpecError, match=r"none.toml: cannot be read: No such file"):
        load_spec(tmp_path / "none.toml")
