"""A small artefact with a tuned kernel, without any search: its database is written by hand."""

import tiny_models
import tuning_cases as cases

import hetero_tvm
from hetero_tvm import compiler, runtime
from hetero_tvm.config import BuildConfig
from hetero_tvm.progress import Progress
from hetero_tvm.tuned_programs import jobs_of
from schedules.search_space import seeds, space_of
from schedules.trials import plain, scheduled_hash
from schedules.tuning_db import TuningDb
from schedules.tuning_records import Choice, Where, kernel_record, record


def write(folder, *, driver=None):
    """Model, artefact and database in `folder`; the kernel's records are of this device.

    `driver`: of the records; this device's own where None, so that a build takes them.
    """
    cases.needs_opencl()
    model = tiny_models.mlp(folder / "mlp.onnx", rows=8)
    config = BuildConfig(model=model, target="host", output=None, devices="gpu")
    progress = Progress(quiet=True)
    (job, *_) = jobs_of({"": config}, compiler.prepare(config, progress), progress)
    space = space_of(plain(job.func), cases.LIMIT)
    choice = Choice.of(*seeds(space.func, cases.LIMIT)[0])
    scheduled = scheduled_hash(space.draw(choice.sketch, choice.as_dict))
    device = runtime.open_opencl()
    where = Where(
        device=str(device.device_name),
        driver=driver or str(device.driver_version),
        limits=cases.LIMIT.text,
    )
    key = job.kernel.key
    verdict = {"good": True, "reason": "", "error": 0.0, "scheduled": scheduled}
    TuningDb(folder / "db").append(
        [
            kernel_record(job.kernel),
            record("default", key, where, seconds=2e-3, good=True, reason=""),
            record("trial", key, where, choice, seconds=1e-3, how="ok", error="", place=""),
            record("verdict", key, where, choice, **verdict),
        ]
    )
    artefact = folder / "mlp.so"
    result = hetero_tvm.build(
        model, target="host", devices="gpu", output=artefact, db=folder / "db"
    )
    return model, artefact, result
