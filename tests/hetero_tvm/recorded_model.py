"""An artefact on which both devices work, and its runs, recorded: what several tests look at."""

import functools
import tempfile
from pathlib import Path

import forced_plans
from split_models import CASES

from hetero_tvm import loader
from hetero_tvm.profile import Recorded, plan_of
from hetero_tvm.profile_summary import runs_of
from hetero_tvm.run import complete_inputs
from hetero_tvm.workload import ModelWorkload

RUNS = 4


@functools.cache
def artefact():
    """A perceptron cut by rows, its last activation on the NPU alone."""
    folder = Path(tempfile.mkdtemp(prefix="hetero-recorded-"))
    case = CASES["activation_joined_for_the_npu"]
    model = case.write(folder / "model.onnx")
    forced_plans.build(model, folder / "model.so", forced_plans.by_operator(case.places))
    return folder / "model.so"


@functools.cache
def recorded():
    """(loaded model, its runs, its plan)."""
    model = loader.load(artefact())
    work = ModelWorkload(model, complete_inputs({}, model.manifest, seed=3))
    found = Recorded(work, RUNS)
    runs = runs_of(found.events, found.bounds)
    return model, runs, plan_of(model.manifest, runs[0])
