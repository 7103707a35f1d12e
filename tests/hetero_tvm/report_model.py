"""A planned artefact whose names are a stranger's, and its report: what several tests look at."""

import functools
import tempfile
from pathlib import Path

import onnx
import tiny_models as tiny

from hetero_tvm import bundle, compiler
from hetero_tvm.config import BuildConfig
from hetero_tvm.report_data import report_data

HOSTILE = "</script><img src=x onerror=hacked=1><!--{policy}&amp;"


@functools.cache
def artefact():
    """A perceptron, cut between both devices, each node with a name that would be markup."""
    folder = Path(tempfile.mkdtemp(prefix="hetero-report-"))
    path = tiny.mlp(folder / "mlp.onnx", rows=512)
    model = onnx.load(path)
    for node in model.graph.node:
        node.name += HOSTILE
    onnx.save(model, path)
    config = BuildConfig(model=path, target="host", output=folder / "mlp.so", check=False)
    compiler.build(config)
    return folder / "mlp.so"


@functools.cache
def data():
    """What `report_data` gives, without a profile."""
    path = artefact()
    return report_data(path, bundle.read_manifest(path))
