"""The report's data is the manifest's, the record's and the profile's, and nobody else's."""

import dataclasses
import json

import pytest
import report_model
from report_model import HOSTILE

from hetero_tvm import bundle
from hetero_tvm.errors import BadInput
from hetero_tvm.report_data import read_profile, report_data
from relay_passes.calls import Call, Result
from relay_passes.plan import OpPlan, Plan
from relay_passes.planner.problem import Cut


@pytest.fixture(scope="module")
def manifest():
    return bundle.read_manifest(report_model.artefact())


def _profile(manifest, **changed):
    """As `profile --json` writes it, with made-up times."""
    calls = [{"symbol": c.symbol, "device": c.device} for c in manifest.calls["main"]]
    summary = {
        "run_us": 100.0,
        "busy_us": {"cpu": 0.0, "gpu": 60.0, "npu": 50.0},
        "overlap_us": 40.0,
        "idle_us": {"gpu": {"waits for the NPU": 3.0}, "npu": {}},
        "waits_us": {"gpu for npu": 3.0},
        "copied_bytes": 0.0,
        "calls": [
            {
                "call": call,
                "us": 10.0 + number,
                "gflops": None,
                "gbps": 1.5,
                "of_limit": None,
                "limited_by": None,
            }
            for number, call in enumerate(calls)
        ],
        "operators": [
            {"name": op["name"], "device": "gpu", "us": 7.0, "apportioned": True}
            for op in manifest.plan["ops"]
        ],
    }
    return {
        "artefact": "mlp.so",
        "library_sha256": manifest.library_sha256,
        "functions": ["main"],
        "runs": 5,
        "plain_run_us": 99.0,
        "provenance": "measured",
        "summary": summary,
        **changed,
    }


def test_every_operator_says_where_why_and_what_else(manifest):
    (main,) = report_model.data()[0]["functions"]
    assert [op["name"] for op in main["operators"]] == [op["name"] for op in manifest.plan["ops"]]
    first = main["operators"][0]
    assert first["node"] == "first" + HOSTILE
    assert first["device"] == "gpu+npu" and first["reason"]
    assert first["split"]["npu_share"] == first["split"]["at"] / first["split"]["extent"]
    assert first["part_us"] == first["split"]["us"]
    assert first["offers"] and first["cost_us"].keys() == {"gpu", "npu"}
    assert first["bytes"] == (512 * 32 + 32 * 64 + 512 * 64) * 4


def test_operators_and_calls_know_each_other():
    (main,) = report_model.data()[0]["functions"]
    for op in main["operators"]:
        for number in op["calls"]:
            assert op["name"] in main["calls"][number]["operators"]
    split = [op for op in main["operators"] if op["split"] and op["macs"]]
    devices = {main["calls"][n]["device"] for op in split for n in op["calls"]}
    assert devices == {"gpu", "npu"}
    predicted = sum(call["predicted_us"] for call in main["calls"])
    assert predicted == pytest.approx(sum(sum(op["part_us"].values()) for op in main["operators"]))


def test_what_is_early_has_a_time_for_each_call():
    """Of another plan than the artefact's own."""
    ops = [
        OpPlan(
            name="a",
            op="hetero.attention",
            device="gpu",
            reason="r",
            cost_us={"gpu": 5.0},
            declined={},
            macs=64,
            early=Cut(1, 16, 64),
            early_us=(1.5, 4.5),
        )
    ]
    calls = tuple(
        Call(
            symbol=f"k{n}",
            device="gpu",
            operators=(name,),
            results=(Result(operator=name, shape=(1,)),),
            macs=1,
            bytes=1,
        )
        for n, name in enumerate(("a_early", "a_late"))
    )
    manifest = bundle.read_manifest(report_model.artefact())
    plan = json.loads(Plan(ops=tuple(ops), predicted_us=6.0).to_json())
    manifest = dataclasses.replace(manifest, plan=plan, calls={**manifest.calls, "main": calls})
    found, _ = report_data(report_model.artefact(), manifest, None)
    (main,) = found["functions"]
    assert [call["predicted_us"] for call in main["calls"]] == [1.5, 4.5]
    assert [call["operators"] for call in main["calls"]] == [["a"], ["a"]]
    (op,) = main["operators"]
    assert op["early"] == {"axis": 1, "at": 16, "extent": 64, "us": [1.5, 4.5]}
    assert op["part_us"] == {"gpu": 6.0}
    assert op["calls"] == [0, 1]


def test_gpu_calls_name_their_kernels():
    data, kernels = report_model.data()
    for call in data["functions"][0]["calls"]:
        assert all(name in kernels for name in call["kernels"])
        assert bool(call["kernels"]) == (call["device"] == "gpu")


def test_a_profile_is_laid_beside_the_predictions(manifest, tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(_profile(manifest)))
    found, _ = report_data(report_model.artefact(), manifest, read_profile(path, manifest))
    (main,) = found["functions"]
    assert main["measured"]
    assert [call["measured"]["us"] for call in main["calls"]] == [
        10.0 + number for number in range(len(main["calls"]))
    ]
    assert main["operators"][0]["measured"] == {"gpu": {"us": 7.0, "apportioned": True}}
    assert found["profile"]["run_us"] == 100.0 and found["profile"]["runs"] == 5


def test_a_trace_is_a_profile_too(manifest, tmp_path):
    path = tmp_path / "t.json"
    trace = {"traceEvents": [], "otherData": {"profile": _profile(manifest)}}
    path.write_text(json.dumps(trace))
    assert read_profile(path, manifest)["runs"] == 5


def test_a_profile_of_another_artefact_is_refused(manifest, tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(_profile(manifest, library_sha256="0" * 64)))
    with pytest.raises(BadInput, match="recorded of another artefact"):
        read_profile(path, manifest)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not json", "not JSON"),
        ("[1]", "not what `hetero-tvm profile` writes"),
        ('{"traceEvents": []}', "not what `hetero-tvm profile` writes"),
        ('{"summary": {}}', "not what `hetero-tvm profile` writes"),
        (None, "No such file"),
    ],
)
def test_what_is_no_profile_is_said_to_be_none(manifest, tmp_path, text, said):
    path = tmp_path / "p.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match=said):
        read_profile(path, manifest)


def test_a_profile_with_other_calls_is_refused(manifest):
    profile = _profile(manifest)
    profile["summary"]["calls"].pop()
    with pytest.raises(BadInput, match="calls are not those of the artefact"):
        report_data(report_model.artefact(), manifest, profile)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda op: op.pop("reason"), "no field plan.ops"),
        (lambda op: op.update(cost_us=[]), "cost_us is"),
        (lambda op: op.update(macs=1e400), "macs is"),
        (
            lambda op: op.update(split={"kind": "weight", "axis": 0, "at": 0, "extent": 0}),
            "splits nothing",
        ),
    ],
)
def test_a_plan_that_is_none_is_refused(manifest, change, said):
    plan = json.loads(json.dumps(manifest.plan))
    change(plan["ops"][0])
    with pytest.raises(BadInput, match=f"plan of main.*{said}.*build it again"):
        report_data(report_model.artefact(), dataclasses.replace(manifest, plan=plan))


def test_a_function_without_calls_is_refused(manifest):
    with pytest.raises(BadInput, match=r"'main'.*build it again"):
        report_data(report_model.artefact(), dataclasses.replace(manifest, calls={}))


@pytest.mark.parametrize(
    ("record", "said"), [("", "without a record"), ("%", "cannot be unpacked")]
)
def test_an_artefact_without_a_record_says_what_to_do(manifest, record, said):
    with pytest.raises(BadInput, match=f"{said}.*build it again"):
        report_data(report_model.artefact(), dataclasses.replace(manifest, record=record))
