"""When this machine is measured, what of it is kept, and what becomes of a bad file."""

import dataclasses

import pytest

from hetero_tvm import host_bench, host_profile, measure_host, runtime
from hetero_tvm.errors import BadInput, EnvironmentProblem
from hetero_tvm.host_profile import ROWS, HostProfile
from schedules.cost_model import CostModel
from target_specs.loader import load_spec

SHIPPED = load_spec("host")
MACHINE = {
    "format": 1,
    "cpu": "Demo CPU",
    "cores": 2,
    "compute_units": 3,
    "opencl": "Demo driver 1.0",
    "versions": {"onnxruntime": "1.0"},
    "environment": {},
}


@pytest.fixture
def machine(monkeypatch):
    """A machine that is measured in no time; the list is of what was measured."""
    asked = []

    def chains_us(case, spec, devices, budget_s, long):
        asked.append((devices, case.shape))
        faster = 4 if case.weights else 1
        return {d: 100.0 / faster * case.shape[0] * (2 if d == "gpu" else 1) for d in devices}

    monkeypatch.delenv(host_profile.VARIABLE, raising=False)
    monkeypatch.setattr(host_profile, "describe_machine", lambda: MACHINE)
    monkeypatch.setattr(
        measure_host,
        "measure_apart",
        lambda progress: host_profile.measure(SHIPPED, MACHINE, progress),
    )
    monkeypatch.setattr(host_bench, "memory_gbps", lambda budget_s: (11.0, 12.0))
    monkeypatch.setattr(host_bench, "chains_us", chains_us)
    monkeypatch.setattr(
        host_bench,
        "slowdown",
        lambda case, *args, **more: {"gpu": max(0.05, case.shape[0] / 100), "npu": 0.5},
    )
    monkeypatch.setattr(
        host_bench,
        "overheads",
        lambda spec, budget_s: {
            "gpu": {"launch_us": 4.0, "handover_us": 6.0, "flag_us": 6.0},
            "npu": {"op_us": 0.5, "launch_us": 5.0, "handover_us": 0.2, "submit_us": 5.0},
        },
    )
    return asked


def test_measures_once(machine, tmp_path):
    lines = []
    first = host_profile.host_profile(tmp_path, progress=lines.append)
    assert lines[0] == "measuring this machine (1 of 16): memory"
    assert lines[-1] == "measuring this machine (16 of 16): GPU and NPU at once, from memory"
    count = len(machine)
    again = host_profile.host_profile(tmp_path, progress=lines.append)
    assert (len(machine), len(lines)) == (count, 16)
    assert again == first
    host_profile.host_profile(tmp_path, reprofile=True)
    assert len(machine) == 2 * count


def test_figures_say_what_is_measured_what_scaled_and_what_shipped(machine, tmp_path):
    spec = host_profile.host_profile(tmp_path).spec
    assert spec.name == "host"
    assert (spec.memory.one_device_gbps, spec.memory.two_devices_gbps) == (11.0, 12.0)
    assert (spec.gpu.both_rate, spec.npu.both_rate) == (0.64, 0.5)
    assert (spec.gpu.both_row_rate, spec.npu.both_row_rate) == (0.05, 0.5)
    assert spec.npu.submit_us == 5.0
    assert [rows for rows, _ in spec.gpu.matmul_at_rows] == list(ROWS)
    assert [rows for rows, _ in spec.npu.coded_matmul_at_rows] == list(ROWS)
    for table, key in [("gpu", "matmul_at_rows"), ("npu", "op_us"), ("memory", "peak_gbps")]:
        origin = getattr(spec, table).origin(key)
        assert origin.provenance == "measured"
        assert "Demo CPU, 2 cores, OpenCL Demo driver 1.0, ONNX Runtime 1.0" in origin.source
    factor = spec.gpu.matmul_at_rows[-1][1] / SHIPPED.gpu.matmul_gflops
    assert spec.gpu.conv_gflops == pytest.approx(factor * SHIPPED.gpu.conv_gflops)
    assert spec.gpu.origin("conv_gflops").provenance == "scaled"
    assert spec.gpu.wave_size == SHIPPED.gpu.wave_size
    assert spec.gpu.origin("wave_size") == SHIPPED.gpu.origin("wave_size")


def test_the_cost_model_gives_back_what_was_measured(machine, tmp_path):
    found = host_profile.host_profile(tmp_path)
    model = CostModel(found.spec)
    for rows in ROWS[1:]:  # one row is bound by memory here
        gpu = model.product_us("gpu", rows, 960, 960, weight_bits=32)
        npu = model.product_us("npu", rows, 960, 960, weight_bits=32)
        assert gpu == pytest.approx(200 * rows, rel=0.01)
        assert npu == pytest.approx(100 * rows, rel=0.01)
        coded = dataclasses.replace(model, packed={"": 0.125})
        assert coded.product_us("gpu", rows, 960, 960, weight_bits=32) == pytest.approx(
            50 * rows, rel=0.01
        )
        assert coded.product_us("npu", rows, 960, 960, weight_bits=32) == pytest.approx(
            25 * rows, rel=0.01
        )
    assert [record.us for record in found.gpu_records[: len(ROWS)]] == [200.0 * r for r in ROWS]
    assert len(found.gpu_records) == 2 * len(ROWS)


def test_an_interrupt_leaves_nothing(machine, monkeypatch, tmp_path):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(host_bench, "slowdown", interrupted)
    with pytest.raises(KeyboardInterrupt):
        host_profile.host_profile(tmp_path)
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        pytest.param(".toml", lambda text: text[:300], id="cut_short"),
        pytest.param(".toml", lambda text: text.replace("value = 11.0", "value = -1"), id="absurd"),
        pytest.param(".toml", lambda text: "", id="empty"),
        pytest.param(".jsonl", lambda text: text[:-20], id="records_cut_short"),
        pytest.param(".jsonl", None, id="records_gone"),
    ],
)
def test_a_damaged_profile_is_measured_again(machine, tmp_path, caplog, suffix, damage):
    first = host_profile.host_profile(tmp_path)
    path = host_profile.profile_path(tmp_path, MACHINE).with_suffix(suffix)
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage(path.read_text()))
    count = len(machine)
    assert host_profile.host_profile(tmp_path) == first
    assert len(machine) == 2 * count
    assert "is damaged" in caplog.text


def test_another_machine_has_another_profile(tmp_path):
    for change in (
        {"cpu": "Other"},
        {"opencl": "Demo driver 1.1"},
        {"versions": {"onnxruntime": "1.1"}},
        {"environment": {"DPCPP_CPU_NUM_CUS": "1"}},
    ):
        other = host_profile.profile_path(tmp_path, MACHINE | change)
        assert other != host_profile.profile_path(tmp_path, MACHINE)


def test_shipped_figures_on_request(machine, monkeypatch, tmp_path):
    monkeypatch.setenv(host_profile.VARIABLE, "shipped")
    assert host_profile.host_profile(tmp_path) == HostProfile(SHIPPED, ())
    assert not machine
    monkeypatch.setenv(host_profile.VARIABLE, "yes")
    with pytest.raises(BadInput, match="HETERO_HOST_PROFILE=yes: the only value is 'shipped'"):
        host_profile.host_profile(tmp_path)


def test_no_device_no_measurement(machine, monkeypatch, tmp_path):
    def missing():
        raise EnvironmentProblem("no OpenCL device")

    monkeypatch.setattr(host_profile, "describe_machine", missing)
    lines = []
    assert host_profile.host_profile(tmp_path, progress=lines.append).spec == SHIPPED
    assert lines == [
        "this machine cannot be measured (no OpenCL device): planning with the shipped figures"
    ]


def test_an_unusable_cache_is_no_fault(machine, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    found = host_profile.host_profile(tmp_path / "file")
    assert found.spec.gpu.both_rate == 0.64
    assert "is not kept" in caplog.text


def test_this_machine_is_described(monkeypatch):
    monkeypatch.setenv("HETERO_NPU_THREADS", "1")
    found = host_profile.describe_machine()
    assert found["environment"]["HETERO_NPU_THREADS"] == "1"
    assert runtime.device_name() in found["opencl"]
    assert found["versions"]["onnxruntime"] == runtime.package_version("onnxruntime")
    assert dataclasses.is_dataclass(SHIPPED)
