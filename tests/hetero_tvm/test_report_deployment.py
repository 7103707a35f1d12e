"""A deployment as people read it."""

from hetero_tvm.deployment import Deployed, PartResult
from hetero_tvm.output_error import OutputError
from hetero_tvm.report_deployment import bundles_table, deployed_text

ERROR = OutputError(
    name="y",
    shape=(1,),
    dtype="float32",
    max_abs_error=0.1,
    relative_error=2e-6,
    cosine=1.0,
    held=True,
)


def test_what_was_not_tried_does_not_read_as_held():
    done = Deployed(
        where="ssh://board",
        command="/home/me/.hetero_tvm/bundles/m/run",
        parts=(
            PartResult(part="gpu", held=True, words="Adreno", errors=(ERROR,)),
            PartResult(part="npu", held=None, words="not tried: no compiler"),
        ),
        pushed_bytes=1_234_567,
        there_bytes=40_000_000,
        footprint={"a": 20_000_000, "b": 5_000_000},
        artefact="m.so",
        seconds={"push": 1.5, "test": 2.0},
    )
    lines = deployed_text(done, "ssh://board").splitlines()
    assert lines[1].split() == ["gpu", "held", "2.00e-06", "Adreno"]
    assert lines[2].split()[:3] == ["npu", "-", "-"] and "held" not in lines[2]
    assert "pushed 1.2 MB of 40.0 MB, 3.5 s in all; program and libraries take 25.0 MB" in lines[4]
    assert lines[-1] == "here:   hetero-tvm run m.so --to ssh://board"


def test_bundles():
    assert bundles_table("ssh://b", []) == "ssh://b: nothing is deployed"
    rows = [{"name": "m", "model": "m.onnx", "target": "host"}]
    assert bundles_table("ssh://b", rows).splitlines()[1].split() == ["m", "m.onnx", "host"]
