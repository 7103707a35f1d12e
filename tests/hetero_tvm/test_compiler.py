"""One build from start to end: what it leaves behind, and what it does not."""

import dataclasses

import pytest
import tiny_models as tiny

from hetero_tvm import bundle, compiler, pipeline, vm_lowering
from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import BadInput, EnvironmentProblem
from hetero_tvm.host_profile import HostProfile
from hetero_tvm.progress import Progress
from target_specs.loader import SOCS, load_spec


def config(tmp_path, **changes):
    path = tiny.mlp(tmp_path / "mlp.onnx")
    return BuildConfig(**{"model": path, "target": "host", "output": tmp_path / "m.so", **changes})


def test_result_and_manifest_agree(tmp_path):
    result = compiler.build(config(tmp_path))
    assert bundle.read_manifest(tmp_path / "m.so").to_json() == result.manifest.to_json()
    assert result.manifest.model_name == "mlp.onnx"
    assert {"apache-tvm", "apache-tvm-ffi", "onnxruntime"} <= set(result.manifest.versions)
    assert set(result.seconds) == {phase.name for phase in pipeline.PHASES} | {"link"}
    assert result.peak_memory_bytes > 50e6
    nodes = {op["node"] for op in result.to_dict()["placement"]["operators"]}
    assert {"first", "second"} <= nodes


def test_a_failed_link_leaves_the_old_artefact(tmp_path, monkeypatch):
    (tmp_path / "m.so").write_bytes(b"what was there")

    def fail(executable, path, _cross):
        path.write_bytes(b"half")
        raise RuntimeError("the linker stopped")

    monkeypatch.setattr(vm_lowering, "export", fail)
    with pytest.raises(RuntimeError):
        compiler.build(config(tmp_path))
    assert (tmp_path / "m.so").read_bytes() == b"what was there"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.so", "mlp.onnx"]


def test_a_target_may_be_a_file(tmp_path):
    from target_specs import loader

    text = (loader.SOCS / "host.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace('name = "host"', 'name = "mine"', 1))
    result = compiler.build(config(tmp_path, target=str(tmp_path / "mine.toml")))
    assert result.target == "mine"
    assert result.manifest.target == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "hostt"}, r"unknown target 'hostt'; did you mean host"),
        ({"target": "none.toml"}, r"none\.toml"),
        ({"output": "no/such/folder/m.so"}, r"the folder no/such/folder does not exist"),
        ({"output": "."}, r"is a folder; give a file name"),
    ],
)
def test_bad_input(tmp_path, changes, message):
    from pathlib import Path

    if "output" in changes:
        changes = {"output": Path(changes["output"])}
    with pytest.raises(BadInput, match=message):
        compiler.build(config(tmp_path, **changes))


def test_a_full_disk_is_the_environment(tmp_path, monkeypatch):
    def fail(executable, path, _cross):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vm_lowering, "export", fail)
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*m\.so: No space left on device"):
        compiler.build(config(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["mlp.onnx"]


@pytest.fixture
def profiled(monkeypatch):
    """This machine, measured: a GPU of one flop, and how it was asked for."""
    spec = load_spec("host")
    spec = dataclasses.replace(spec, gpu=dataclasses.replace(spec.gpu, matmul_gflops=1.0))
    asked = []

    def host_profile(cache_dir, *, reprofile, progress):
        asked.append((cache_dir, reprofile))
        return HostProfile(spec, ())

    monkeypatch.setattr(compiler, "host_profile", host_profile)
    return asked


@pytest.mark.parametrize("reprofile", [False, True])
def test_the_host_is_as_measured(profiled, tmp_path, reprofile):
    costs = compiler.target_costs(
        "host", Progress(quiet=True), cache_dir=tmp_path, reprofile=reprofile
    )
    assert costs.spec.gpu.matmul_gflops == 1.0
    assert profiled == [(tmp_path, reprofile)]


def test_other_targets_are_as_their_file_says(profiled, tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text((SOCS / "host.toml").read_text())  # also called host, but a file
    for target in ("snapdragon", str(mine)):
        costs = compiler.target_costs(target, Progress(quiet=True), cache_dir=tmp_path)
        assert costs.spec.gpu.matmul_gflops > 1.0
        with pytest.raises(BadInput, match="--reprofile measures this machine"):
            compiler.target_costs(target, Progress(quiet=True), cache_dir=tmp_path, reprofile=True)
    assert profiled == []


def test_a_build_follows_the_measured_host(profiled, tmp_path):
    result = compiler.build(config(tmp_path, output=None))
    assert profiled
    assert result.plan.macs["gpu"] == 0  # far too slow


@pytest.mark.parametrize(
    ("name", "magic"),
    [
        pytest.param("linux-aarch64", b"\x7fELF", id="linux"),
        # zig builds Windows' libraries first: two minutes where it has not yet.
        pytest.param("windows-arm64", b"MZ", id="windows", marks=pytest.mark.nightly),
    ],
)
def test_host_code_for_another_machine(tmp_path, name, magic):
    pytest.importorskip("ziglang")
    artefact = tmp_path / "mlp.so"
    model = tiny.mlp(tmp_path / "mlp.onnx")
    compiler.build(BuildConfig(model=model, target="host", output=artefact, os=name))
    code = artefact.read_bytes()
    assert code.startswith(magic)
    # Where ELF and PE say what machine they are for.
    at = 18 if magic == b"\x7fELF" else int.from_bytes(code[60:64], "little") + 4
    assert int.from_bytes(code[at : at + 2], "little") in (0xB7, 0xAA64)
    manifest = bundle.read_manifest(artefact)
    assert (f"{manifest.os}", manifest.host) == (name.split("-")[0], "aarch64")
    assert "measured_us" not in manifest.plan or not manifest.plan["measured_us"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"db": "nowhere"}, "--db .*nowhere: no such folder"),
        ({"measure": True, "target": "snapdragon"}, "use it with --target host"),
        ({"measure": True, "os": "linux-aarch64"}, "use it without --os"),
    ],
    ids=["a database that is none", "measuring a phone", "measuring another machine"],
)
def test_what_cannot_be_used_is_refused_before_the_work(tmp_path, monkeypatch, words, message):
    monkeypatch.setattr(compiler, "run_phases", lambda *_, **__: pytest.fail("work began"))
    words = {name: tmp_path / value if name == "db" else value for name, value in words.items()}
    with pytest.raises(BadInput, match=message):
        compiler.build(config(tmp_path, **words))
