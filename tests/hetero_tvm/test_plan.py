"""The verb: its words, its JSON, its refusals."""

import importlib.util

import pytest
import tiny_models as tiny

from target_specs.loader import SOCS, load_spec
from tests.hetero_tvm.tiny_llm import TinyLlm, build

needs_qnn = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None,
    reason="onnxruntime-qnn is not installed (pip install 'hetero-tvm[qnn]')",
)


def test_json_has_every_operator_and_every_mode(hetero, tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx")
    done = hetero("plan", path, "-t", "snapdragon", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = done.json
    assert (found["schema_version"], found["verb"]) == (1, "plan")
    assert (found["target"], found["devices"]) == ("snapdragon-8-gen-3", "gpu+npu")
    assert "snapdragon stands for snapdragon-8-gen-3" in done.stderr
    matmuls = [op for op in found["operators"] if op["op"] == "relax.matmul"]
    assert [op["node"] for op in matmuls] == ["first", "second"]
    for op in matmuls:
        assert op["predicted"].keys() == {"gpu", "npu"}
        for predicted in op["predicted"].values():
            assert predicted["provenance"] == "modelled"
            assert predicted["us"] > 0
            figure = found["figures"][predicted["figure"]]
            assert figure["provenance"] == "published"
            assert figure["source"]
    assert found["modes"].keys() == {"gpu", "npu", "layer", "split"}
    for mode in found["modes"].values():
        assert mode["provenance"] == "modelled"
        assert mode["predicted_us"] >= max(mode["busy_us"].values())
        assert sum(mode["operators"].values()) == len(found["operators"])
    assert found["modes"]["npu"]["operators"]["npu"] == len(found["operators"])
    assert found["best"] in ("gpu", "npu")  # too small to be worth two devices
    for figure in found["waiting"].values():
        assert figure["value"] > 0
        assert figure["provenance"] in ("measured", "published", "vendor-estimated", "scaled")
        assert figure["source"]
    assert found["npu_regions"] is None
    assert [file.name for file in tmp_path.iterdir()] == ["mlp.onnx"]


def test_flags_reach_the_plan(hetero, tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx", free_rows=True)
    done = hetero(
        "plan", path, "-t", "host", "--input", "x=7x32", "--devices", "npu",
        "--dtype", "float16", "--json", "-q",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (done.json["devices"], done.json["dtype"]) == ("npu", "float16")
    macs = {op["node"]: op["macs"] for op in done.json["operators"] if op["macs"]}
    assert macs == {"first": 7 * 32 * 64, "second": 7 * 64 * 16}
    assert {op["device"] for op in done.json["operators"] if op["macs"]} == {"npu"}


def test_a_split_in_the_json(hetero, tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx", rows=512)
    done = hetero("plan", path, "-t", "host", "--json", "-q")
    first = {op["node"]: op for op in done.json["operators"]}["first"]
    assert first["device"] == "gpu+npu"
    assert 0 < first["split"]["npu_share"] < 1
    assert first["split"]["predicted"].keys() == {"gpu", "npu"}
    assert first["split"]["at"] in [offer["at"] for offer in first["splits_offered"]]
    whole = hetero("plan", path, "-t", "host", "--no-split", "--json", "-q").json
    assert whole["plan"] == "layer"
    assert {op["split"] for op in whole["operators"]} == {None}


def test_one_row_for_each_length(hetero, tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx", free_rows=True)
    words = ("plan", path, "-t", "host", "--input", "x=Lx32", "-q", "--length")
    done = hetero(*words, "4,512")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:3]]
    assert [row[0] for row in rows] == ["4", "512"]
    found = hetero(*words, "4,512", "--json").json["lengths"]
    assert [entry["length"] for entry in found] == [4, 512]
    macs = [sum(op["macs"] for op in entry["operators"]) for entry in found]
    assert macs[1] == 128 * macs[0]
    for row, entry in zip(rows, found, strict=True):
        assert float(row[1]) == round(entry["modes"]["gpu"]["predicted_us"] / 1e3, 3)
    # one length: the whole report
    assert "Best: " in hetero(*words, "512").stdout


def test_every_way_to_meet_a_range_of_lengths(hetero, tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx", free_rows=True, width=1024)
    words = ("-t", "host", "--input", "x=Lx32", "-q", "--length", "64..128")
    done = hetero("plan", path, *words)
    assert done.returncode == 0, done.stderr
    found = hetero("plan", path, *words, "--json").json
    assert [one["length"] for one in found["standards"]] == [64, 128]
    assert {one["length"] for one in found["between"]} == {80, 96, 112}
    rows = {int(line.split()[0]): line for line in done.stdout.splitlines()[1:6]}
    for one in found["between"]:
        assert f"{one['split_us'] / 1e3:.3f} ms" in rows[one["length"]]
        assert f"{one['padding_us'] / 1e3:.3f} ms" in rows[one["length"]]
        assert one["built"] == ("built" in rows[one["length"]]) == (one["length"] in found["built"])
    built = hetero("build", path, *words, "--plan-only", "--json").json
    assert found == {**built["range"], "schema_version": 1, "verb": "plan"}
    assert [variant["length"] for variant in built["variants"]] == found["built"]
    assert "Variants for 64..128: " in hetero("build", path, *words, "--plan-only").stdout


def test_the_machine_is_measured_again_once(tmp_path, monkeypatch, capsys):
    from hetero_tvm import cli, compiler
    from hetero_tvm.host_profile import HostProfile

    asked = []

    def host_profile(cache_dir, *, reprofile, progress):
        asked.append(reprofile)
        return HostProfile(load_spec("host"), ())

    monkeypatch.setattr(compiler, "host_profile", host_profile)
    path = tiny.mlp(tmp_path / "mlp.onnx", free_rows=True)
    words = ["plan", str(path), "-t", "host", "--input", "x=Lx32", "--length", "4,8,16"]
    assert cli.main([*words, "--reprofile", "-q"]) == 0
    assert asked == [True, False, False]
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_a_gpu_that_is_shared(hetero, tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx", rows=512)
    done = hetero("plan", path, "-t", "host", "--gpu-share", "60%", "-q")
    assert done.returncode == 0, done.stderr
    assert "The GPU is ours for 60% of its time." in done.stdout


def test_energy_with_a_target_that_knows_its_power(hetero, tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx", rows=512)
    text = (SOCS / "host.toml").read_text()
    text = text.replace("[gpu]\n", "[gpu]\npower_w = 4.0\n").replace(
        "[npu]\n", "[npu]\npower_w = 0.5\n"
    )
    (tmp_path / "mine.toml").write_text(text)
    words = ("plan", path, "-t", "mine.toml", "--json", "-q", "--objective")
    found = {name: hetero(*words, name, cwd=tmp_path).json for name in ("energy", "latency")}
    joules = {name: report["modes"]["split"]["joules"] for name, report in found.items()}
    assert 0 < joules["energy"] < joules["latency"]
    assert {op["device"] for op in found["energy"]["operators"] if op["macs"]} == {"npu"}


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None,
    reason="matplotlib is not installed (pip install 'hetero-tvm[plot]')",
)
def test_a_plot_needs_no_model(hetero, tmp_path):
    done = hetero("plan", "-t", "host", "--plot", "p.png", "-q", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert [product["columns"] for product in done.json["products"]] == [4096, 14336]
    assert done.json["plot"] == "p.png"


def test_a_plot_without_matplotlib_is_one_clear_line(hetero, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'matplotlib' else find(n, *a)\n"
    )
    env = {"PYTHONPATH": str(tmp_path)}
    done = hetero("plan", "-t", "host", "--plot", "p.png", "-q", cwd=tmp_path, env=env)
    assert done.returncode == 3
    assert "pip install 'hetero-tvm[plot]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_table_on_stdout(hetero, tmp_path):
    done = hetero("plan", tiny.mlp(tmp_path / "mlp.onnx"), "-t", "host", "-v")
    assert done.returncode == 0, done.stderr
    assert "Times are modelled" in done.stdout
    assert "m measured" in done.stdout
    assert "Best: " in done.stdout
    assert "first" in done.stdout  # -v names the nodes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no model given; usage: hetero-tvm plan MODEL.onnx --target TARGET"),
        (["absent.onnx"], "absent.onnx"),
        (["mlp.onnx", "-t", "snapdragno"], "snapdragon"),
        (["mlp.onnx", "--input", "x=4x32x"], "write the dimensions as whole numbers"),
        (["mlp.onnx", "--input", "z=4x32"], "z"),
        (["mlp.onnx", "--input", "x=Lx32"], "L stands for the lengths of"),
        (["mlp.onnx", "--length", "4"], "--length needs an --input with a dimension written L"),
        (["mlp.onnx", "--plot", "p.png"], "--plot shows products of the target, without a model"),
        (["--plot", "p.svg"], "the picture is a PNG; name it so, as in p.png"),
        (["mlp.onnx", "--gpu-share", "0%"], "write a share above 0"),
        (
            ["mlp.onnx", "--reprofile"],
            "--reprofile measures this machine: use it",
        ),
        (
            ["mlp.onnx", "-t", "host", "--objective", "energy"],
            "target host does not say what power its devices take ([gpu] power_w and [npu] "
            "power_w): plan for latency, or add it to a TOML file of the target",
        ),
        (
            ["mlp.onnx", "-t", "host", "--estimate"],
            "--estimate: ONNX Runtime CPU provider, standing in for an NPU: Qualcomm's compiler "
            "estimates only its own NPUs; plan without it",
        ),
    ],
    ids=[
        "no_model",
        "no_file",
        "no_target",
        "bad_dims",
        "no_input",
        "l_alone",
        "length_alone",
        "plot_and_model",
        "no_png",
        "no_share",
        "not_this_machine",
        "no_power",
        "not_qualcomms",
    ],
)
def test_bad_input_is_one_clear_line(hetero, tmp_path, words, message):
    tiny.mlp(tmp_path / "mlp.onnx")
    done = hetero("plan", *words, "-q", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("hetero-tvm plan: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_free_dimensions_are_asked_for(hetero, tmp_path):
    done = hetero("plan", tiny.mlp(tmp_path / "mlp.onnx", free_rows=True), "-q")
    assert done.returncode == 2
    assert "--input x=" in done.stderr


@needs_qnn
def test_regions_are_estimated_unless_told_otherwise(hetero, tmp_path):
    """Also from the cache, and for the plan that has no region."""
    path = tiny.mlp(tmp_path / "mlp.onnx", rows=64)
    words = ("plan", path, "-t", "snapdragon", "-q")
    env = {"HETERO_CACHE_DIR": str(tmp_path / "cache"), "HETERO_ESTIMATE": ""}
    done = hetero(*words, "--devices", "npu", "--json", env=env)
    assert done.returncode == 0, done.stderr
    (region,) = done.json["npu_regions"]
    estimated = region["estimated"]
    assert estimated["provenance"] == region["provenance"] == "vendor-estimated"
    assert estimated["proxy"]["soc"] == "QCS9100"
    assert estimated["low_us"] <= estimated["us"] <= estimated["high_us"]
    assert region["ratio"] == pytest.approx(estimated["us"] / region["predicted"]["us"])
    assert sum(region["shares"].values()) == pytest.approx(1.0, abs=0.5)  # beside the border
    assert not estimated["cached"]
    # What the plan counts for the region is its estimate.
    times = [op["predicted"]["npu"] for op in done.json["operators"]]
    assert {time["provenance"] for time in times} == {"vendor-estimated"}
    counted = sum(time["us"] for time in times) + region["predicted"]["border_us"]
    assert counted == pytest.approx(max(estimated["us"], region["predicted"]["border_us"]))
    assert done.json["modes"]["npu"]["provenance"] == "modelled, NPU regions vendor-estimated"
    again = hetero(*words, "--devices", "npu", "--json", env=env)
    assert again.json["npu_regions"][0]["estimated"] == {**estimated, "cached": True}
    gpu = hetero(*words, "--devices", "gpu", env=env)
    assert gpu.returncode == 0, gpu.stderr
    assert "The plan has no NPU region to estimate." in gpu.stdout
    off = hetero(*words, "--devices", "npu", "--no-estimate", "--json", env=env)
    assert off.json["npu_regions"] is None
    kinds = {op["predicted"]["npu"]["provenance"] for op in off.json["operators"]}
    assert kinds == {"modelled"}


@needs_qnn
def test_products_are_estimated_where_asked_for(hetero, tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx", rows=64)
    env = {"HETERO_CACHE_DIR": str(tmp_path / "cache")}
    words = ("plan", path, "-t", "snapdragon", "--estimate", "--devices", "npu")
    done = hetero(*words, "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert "of 8 matrix products" in done.stderr
    assert done.json["npu_regions"][0]["provenance"] == "vendor-estimated"


def test_a_variable_with_a_typo_is_one_clear_line(hetero, tmp_path):
    path = tiny.mlp(tmp_path / "mlp.onnx")
    done = hetero("plan", path, "-t", "host", "-q", env={"HETERO_ESTIMATE": "no"})
    assert done.returncode == 2
    assert done.stderr == (
        "hetero-tvm plan: error: HETERO_ESTIMATE=no: write off, or leave it unset "
        "[hetero-tvm explain HT2000]\n"
    )


def test_a_language_models_folder_has_a_row_for_each_step(hetero, tmp_path):
    folder = build(TinyLlm(layers=1), tmp_path / "model")
    words = ("plan", folder, "-t", "snapdragon", "--prefill", "8", "--context", "64")
    done = hetero(*words, "--json")
    assert done.returncode == 0, done.stderr
    steps = done.json["steps"]
    assert [step["tokens"] for step in steps] == [1, 8]
    for step in steps:
        assert step["modes"].keys() == {"gpu", "npu", "layer", "split"}
        assert "hetero.attention" in {op["op"] for op in step["operators"]}
    refused = hetero("plan", folder, "--length", "8", "-q")
    assert refused.returncode == 2
    assert "a language model's folder, which takes none" in refused.stderr
    mlp = tiny.mlp(tmp_path / "mlp.onnx")
    refused = hetero("plan", mlp, "--prefill", "8", "-q")
    assert refused.returncode == 2
    assert "--prefill is for a language model's folder" in refused.stderr
