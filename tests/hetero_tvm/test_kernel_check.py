import io
import json

import pytest
import tuned_artefact

from hetero_tvm import kernel_check
from hetero_tvm.bundle import read_manifest


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return tuned_artefact.write(tmp_path_factory.mktemp("tuned"))


def test_a_line_for_each_kernel(built, monkeypatch, capfd):
    _, artefact, _ = built
    kernels = [k for k in read_manifest(artefact).kernels if k["schedule"] == "tuned"]
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps([*kernels, *kernels])))
    assert kernel_check.main([str(artefact)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"reason": ""}] * 2
