"""Tuning, between the compiler and `schedules`: which kernels, where, and what a build takes.

Requires: for searching, the extra `tune` (xgboost; tornado and cloudpickle for farms).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import socket
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import tvm
from tvm import IRModule, relax, tirx
from tvm.s_tir import dlight

from hetero_tvm import runtime
from hetero_tvm.build_state import State
from hetero_tvm.errors import (
    BadInput,
    EnvironmentProblem,
    MissingPackage,
    NotReached,
    TuningDbUnusable,
    WrongNumbers,
)
from relay_passes.lower_gpu import OPS_ATTR, lower_gpu
from schedules.attention import InOne
from schedules.attention_space import Written
from schedules.defaults import default_legalizations, default_rules
from schedules.limits import limits
from schedules.measure import NoDevice, Pool
from schedules.trial_process import Place
from schedules.trials import entry_of, plain
from schedules.tuned import Pick, Tuned, Use, drawn, pick, wrong_default
from schedules.tuner import Job, reverify
from schedules.tuning_db import DbRefused, TuningDb
from schedules.tuning_records import describe
from schedules.tvm_target import target_text, tvm_target
from target_specs.spec import GpuSpec, SocSpec

Tell = Callable[[str], None]
Found = tuple[Pick | None, str]  # what to use for a kernel, and why
_CONNECT_S = 5.0
_SCHEDULED = "tirx.is_scheduled"
_NEEDS = {"rpc": ("tornado", "cloudpickle"), "tracker": ("tornado", "cloudpickle")}


def open_db(folder: Path, *, tell: Tell, write: bool = False) -> TuningDb:
    """The database in `folder`.

    Raises:
        BadInput: it cannot be used.
    """
    try:
        return TuningDb(folder, tell=tell, write=write)
    except DbRefused as error:
        raise TuningDbUnusable(str(error)) from None


def check_db(folder: Path) -> None:
    """Refuse what is no database of tuned kernels, before a build begins.

    Raises:
        BadInput: it is none, or cannot be used.
    """
    if not folder.is_dir():
        raise TuningDbUnusable(f"--db {folder}: no such folder; `hetero-tvm tune` makes one")
    open_db(folder, tell=lambda _: None)  # whatever it has to say is said when it is used


def jobs_of(state: State) -> list[Job]:
    """The GPU kernels that the plan's program calls, as they are before scheduling."""
    gpu = state.spec.gpu
    bare = _unscheduled(state, in_one=lambda attention: True)
    return [_job(name, func, calls, gpu) for name, func, calls in _kernels(bare)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TunedModule:
    """Scheduled GPU kernels, some of them as a database has them."""

    mod: IRModule
    uses: tuple[Use, ...]
    names: frozenset[str]  # of the functions that are as the database has them


def schedule_with(state: State, folder: Path, tell: Tell) -> TunedModule:
    """`state.mod` with scheduled GPU kernels: by the database's records where they can be used.

    Where records are of this device and another driver, they are verified on this one, once.

    Raises:
        BadInput: the database cannot be used.
        DeviceFailure: a kernel has no schedule that is right on this device.
    """
    check_db(folder)
    gpu = state.spec.gpu
    limit = limits(gpu)
    db = open_db(folder, tell=tell)
    here = _here(state.spec)

    def ask(bare: IRModule) -> tuple[dict[str, tirx.PrimFunc], dict[str, Found]]:
        functions = {describe(name, func).key: func for name, func, _ in _kernels(bare)}
        if here is not None:
            _check_new_driver(db, functions, gpu, here, tell)
        return functions, {key: pick(db, key, limit, here) for key in functions}

    bare = _unscheduled(state, in_one=lambda attention: True)
    functions, picks = ask(bare)
    # A step that is not tuned is two functions, as without a database.
    in_two = {
        written.attention: (key, picks[key][1])
        for key, func in functions.items()
        if (written := Written.of(func)) is not None and written.is_step
        if (found := picks[key][0]) is None or drawn(func, found, limit) is None
    }
    if in_two:
        bare = _unscheduled(state, in_one=lambda attention: attention not in in_two)
        functions, picks = ask(bare)
    for key, func in functions.items():
        asked, written = [key], Written.of(func)
        if picks[key][0] is None and written is not None and written.pieces:
            # Only earlier versions tuned the pieces alone.
            whole, why = in_two[written.attention]
            asked, picks[key] = [key, whole], (None, why)
        if picks[key][0] is not None or here is None:
            continue
        wrong = next(filter(None, (wrong_default(db, one, limit, here) for one in asked)), None)
        if wrong is not None:
            ops = ", ".join(map(str, func.attrs.get(OPS_ATTR) or ()))
            raise WrongNumbers(
                f"the kernel of {ops} is wrong on {here[0]} ({wrong}), and no "
                "other schedule of it is verified: tune it longer, or build with --devices npu"
            )
    tuned = {key for key, (found, _) in picks.items() if found is not None}
    names = {
        var.name_hint
        for var, func in bare.functions_items()
        if isinstance(func, tirx.PrimFunc) and describe(var.name_hint, func).key in tuned
    }
    rule = Tuned(picks, limit)
    with tvm_target(gpu):
        mod = dlight.ApplyDefaultSchedule(rule, *default_rules(gpu))(bare)
    for var, func in bare.functions_items():  # those written by hand are passed over there
        if isinstance(func, tirx.PrimFunc) and Written.of(func) is not None:
            sch = rule.apply(func, tvm_target(gpu))
            if sch is not None:
                made = entry_of(sch.mod).with_attr(_SCHEDULED, True)
                mod[var] = made.with_attr(OPS_ATTR, func.attrs[OPS_ATTR])
    return TunedModule(mod=mod, uses=tuple(rule.uses), names=frozenset(names))


def places(device: str, gpu: GpuSpec) -> list[Place]:
    """What `--device` names, as processes that serve it.

    Raises:
        BadInput: it cannot be read, or nothing is free.
        DeviceFailure: nobody answers there.
        EnvironmentProblem: a package for it is missing.
    """
    scheme, separator, rest = device.partition("://")
    if device != "local":
        address, _, key = rest.partition("/")
        host, colon, port = address.rpartition(":")
        fine = separator and host and colon and port.isdigit()
        if scheme not in ("rpc", "tracker") or not fine or (scheme == "tracker" and not key):
            raise BadInput(
                f"--device {device}: write local, rpc://HOST:PORT or tracker://HOST:PORT/KEY"
            )
        try:  # TVM itself would try for a minute
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        except OSError as error:
            what = "the tracker" if scheme == "tracker" else "the device server"
            raise NotReached(
                f"--device {device}: {what} at {address} does not answer: {error.strerror or error}"
            ) from None
        for package in _NEEDS[scheme]:
            if importlib.util.find_spec(package) is None:
                raise MissingPackage(
                    f"{package} is not installed; run: pip install 'hetero-tvm[tune]'"
                )
    count = free_devices(device) if scheme == "tracker" else 1
    worker = (sys.executable, "-m", "hetero_tvm.trial_worker")
    command = (*worker, "--device", device, "--target", target_text(gpu))
    names = [device] if count == 1 else [f"{device} {n + 1}" for n in range(count)]
    paths = ":".join(path for path in sys.path if path)
    return [Place(name, command, (("PYTHONPATH", paths),), far=device != "local") for name in names]


def free_devices(device: str) -> int:
    """How many devices a tracker has to give.

    Raises:
        DeviceFailure: the tracker does not answer.
        BadInput: it has none of that name.
    """
    from tvm import rpc

    address, _, key = device.partition("://")[2].partition("/")
    host, _, port = address.rpartition(":")
    try:
        summary = rpc.connect_tracker(host, int(port)).summary()
    except (OSError, RuntimeError, ValueError) as error:
        raise NotReached(f"the tracker at {address} does not answer: {_last(error)}") from None
    queues = summary.get("queue_info", {})
    free = int(queues.get(key, {}).get("free", 0))
    if free == 0:
        known = ", ".join(sorted(queues)) or "none"
        raise BadInput(
            f"--device {device}: no free device is called {key} at that tracker (known: {known})"
        )
    return free


def open_pool(device: str, gpu: GpuSpec, tell: Tell) -> Pool:
    """Processes that measure on `--device`.

    Raises:
        BadInput, EnvironmentProblem, DeviceFailure: as `places`, or nothing answers.
    """
    if device == "local":
        runtime.require(opencl=True)
    try:
        return Pool(places(device, gpu), note=tell)
    except NoDevice as error:
        raise NotReached(f"no device to measure on: {error}") from None


def _here(spec: SocSpec) -> tuple[str, str] | None:
    """Device and driver, where the target is this machine and has one."""
    if spec.soc_ids:
        return None
    try:
        device = runtime.open_opencl()
    except EnvironmentProblem:
        return None
    return str(device.device_name), str(device.driver_version)


def _check_new_driver(
    db: TuningDb,
    functions: dict[str, tirx.PrimFunc],
    gpu: GpuSpec,
    here: tuple[str, str],
    tell: Tell,
) -> None:
    """Verify on this driver what was found on this device under another one."""
    limit = limits(gpu)
    todo: list[tuple[Job, Pick]] = []
    standings = db.standings()
    for key, func in functions.items():
        of_kernel = [s for (one, where), s in standings.items() if one == key]
        mine = [s for s in of_kernel if s.where.limits == limit.text and s.where.device == here[0]]
        if not mine or any(s.where.driver == here[1] for s in mine):
            continue
        for standing in mine:
            found, _ = pick(db, key, limit, (standing.where.device, standing.where.driver))
            if found is not None:
                todo.append((_job(key, func, 1, gpu), found))
    if not todo:
        return
    tell(f"{len(todo)} tuned kernels are checked on driver {here[1]}, which is new")
    with open_pool("local", gpu, tell) as pool:
        reverify(pool, db, todo, limit=limit, tell=tell)


def _job(name: str, func: tirx.PrimFunc, calls: int, gpu: GpuSpec) -> Job:
    with tvm_target(gpu):
        scheduled = dlight.ApplyDefaultSchedule(*default_rules(gpu))(
            IRModule({"main": plain(func)})
        )
    default = IRModule({"main": plain(entry_of(scheduled))})
    return Job(kernel=describe(name, func), func=func, default=default, calls=calls)


def _unscheduled(state: State, in_one: InOne) -> IRModule:
    """`in_one`: decode steps of attention that are one kernel of two."""
    gpu = state.spec.gpu
    return lower_gpu(
        state.mod,
        target=tvm_target(gpu),
        legalizations=default_legalizations(gpu, state.four_bit, in_one=in_one),
        rules=(),
    )


def _kernels(bare: IRModule) -> list[tuple[str, tirx.PrimFunc, int]]:
    """Name, function and calls of every unscheduled kernel, equal ones once."""
    calls: Counter[str] = Counter()
    for block in bare["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Call) and value.op == tvm.ir.Op.get("relax.call_tir"):
                calls[value.args[0].name_hint] += 1
    found: dict[str, tuple[str, tirx.PrimFunc, int]] = {}
    for var, func in bare.functions_items():
        if not isinstance(func, tirx.PrimFunc):
            continue
        if func.attrs.get(_SCHEDULED) and Written.of(func) is None:
            continue
        if var.name_hint not in calls or not _is_static(func):
            continue
        key = describe(var.name_hint, func).key
        name, first, before = found.get(key, (var.name_hint, func, 0))
        found[key] = (name, first, before + calls[var.name_hint])
    return list(found.values())


def _is_static(func: tirx.PrimFunc) -> bool:
    return all(
        all(isinstance(n, (int, tirx.IntImm)) for n in getattr(param.ty, "shape", (None,)))
        for param in func.params
    )


def _last(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][:200]
