"""`doctor --to`: everything that has to be right on a device, each with the way to repair it.

What plain shell can see comes first (`device_look`). Then the program and its libraries go there,
the system's loader is asked for each of them, and one product is computed on every OpenCL device
in both widths, on the NPU, and on both at once. What went there is taken away again. A device
server is asked for what its program tells, which needs no shell.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_tvm import device_look
from hetero_tvm.device_facts import DeviceFacts, read_facts
from hetero_tvm.device_look import Seen
from hetero_tvm.device_os import DeviceOs, os_of
from hetero_tvm.doctor_checks import DEVICE, Result
from hetero_tvm.errors import BadInput, HeteroError
from hetero_tvm.transports import rpc
from hetero_tvm.transports.address import open_transport
from hetero_tvm.transports.transport import Transport
from target_specs.loader import list_specs, load_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from hetero_tvm.device_store import DeviceStore, StoredFile
    from hetero_tvm.placed_product import Place, Product
    from hetero_tvm.remote import Session

    Start = Callable[[], AbstractContextManager[Session]]
    Put = Callable[[Session, StoredFile], str]

_HOST = "host"  # the target of a machine that no other target describes
_NAME = "hetero-doctor"  # of the bundle that is tried and never installed
_ARCH, _MEMORY = "/proc/sys/kernel/arch", "/proc/meminfo"
_REPAIR_DRIVER = "update the driver there, or choose another device with HETERO_OPENCL_DEVICE"


def device_checks(
    address: str, root: str | None, cache_dir: Path, *, quick: bool = False
) -> Iterator[Result]:
    """Every line about the device at `address`, as soon as it is known.

    Args:
        address: as `--to` takes it; of a device server too.
        root: folder for deployments there; None: the usual one.
        cache_dir: where libraries and products for it are kept here.
        quick: only look; nothing travels and nothing runs there.

    Raises:
        BadInput: `address` is none.
    """
    try:
        if address.partition(":")[0] in ("rpc", "rpcs"):
            yield from _of_server(rpc.parse(address), cache_dir, quick=quick)
            return
        with open_transport(address) as transport:
            facts, seen = read_facts(transport), device_look.look(transport)
            yield from device_look.results(facts, seen, transport.environment())
            if not quick and not facts.lacks:
                yield from _run_there(transport, root, cache_dir, facts, seen)
    except BadInput:
        raise
    except HeteroError as error:  # what ends it all: not reached, or lost on the way
        fix = f"see that it is on and the address right, then: hetero-tvm doctor --to {address}"
        code = error.exit_code
        yield Result(name="device", status="FAIL", words=str(error), fix=fix, exit_code=code)


def _run_there(
    transport: Transport, root: str | None, cache_dir: Path, facts: DeviceFacts, seen: Seen
) -> Iterator[Result]:
    """Bring the program and products there, run them, take all away."""
    from hetero_tvm.device_libraries import libraries_for
    from hetero_tvm.device_store import DeviceStore, StoredFile
    from hetero_tvm.remote import Session
    from hetero_tvm.start_script import start_script

    target = _target_of(facts.soc_id) or _HOST
    arch = load_spec(target).npu.htp_arch if target != _HOST else None
    products: dict[tuple[Place, str], Product] = {}
    libraries = []
    try:
        products = _products(target, os_of(facts.system, facts.machine), facts, cache_dir)
        # Those of a product that needs the NPU are all that there are.
        whole = products["split", "float32"]
        libraries = [
            (library, StoredFile.of(library.path, library.name))
            for library in libraries_for(whole.manifest, cache_dir)
        ]
    except HeteroError as error:
        fix = "repair that on this machine; until then nothing can run there"
        code = error.exit_code
        yield Result(name="libraries", status="FAIL", words=str(error), fix=fix, exit_code=code)
        return
    store = DeviceStore(transport, root)
    files = {key: StoredFile.of(product.path) for key, product in products.items()}
    everything = [*(file for _, file in libraries), *files.values()]
    pushed: list[StoredFile] = []
    try:
        if store.trusted_keys():
            words = "accepts only signed artefacts: nothing is run there"
            fix = "hetero-tvm deploy … --sign KEY tries every part with signed ones"
            yield Result(name="signatures", status="warn", words=words, fix=fix)
            return
        pushed = store.missing(everything)
        yield _room(pushed, facts)
        for file in pushed:
            store.put(file)
        there = {file.name: store.path(file) for _, file in libraries}
        yield device_look.skeleton(there, arch, seen)
        yield _library_paths(transport, list(there.values()), seen)
        environment = {**transport.environment(), "HETERO_CACHE_DIR": f"{store.root}/doctor-cache"}
        script = start_script(libraries, files["split", "float32"], [], environment)
        trial = store.install(_NAME, script, everything)
        yield from _computed(
            lambda: Session.of_bundle(transport, trial),
            lambda _, file: store.path(file),
            {key: (product, files[key]) for key, product in products.items()},
            arch,
        )
    finally:
        _take_away(store, pushed)


def _target_of(soc_id: int | None) -> str | None:
    """The target whose SoC has this number; None: no target has, or it is no Snapdragon."""
    if soc_id is None:
        return None
    return next((name for name in list_specs() if soc_id in load_spec(name).soc_ids), None)


def _products(
    target: str, system: DeviceOs | None, facts: DeviceFacts | None, cache_dir: Path
) -> dict[tuple[Place, str], Product]:
    from hetero_tvm.placed_product import placed_product

    if system is None:
        assert facts is not None
        raise BadInput(f"no artefact can be built for {facts.system} on {facts.machine}")
    wanted: list[tuple[Place, str]] = [
        ("gpu", "float32"),
        ("gpu", "float16"),
        ("npu", "float32"),
        ("split", "float32"),
    ]
    return {
        (at, dtype): placed_product(at, dtype, target, system, cache_dir) for at, dtype in wanted
    }


def _room(files: Sequence[StoredFile], facts: DeviceFacts) -> Result:
    wanted = sum(file.size for file in files)
    words = f"program, libraries and products: {wanted / 1e6:.0f} MB travel"
    if wanted < facts.storage_free_bytes:
        return Result(name="libraries", status="ok", words=words, facts={"bytes": wanted})
    fix = "make room there, or name another --root"
    return Result(name="libraries", status="FAIL", words=words, fix=fix, exit_code=DEVICE)


def _library_paths(transport: Transport, paths: Sequence[str], seen: Seen) -> Result:
    """What the device's loader does not find of what the program and its libraries need."""
    name = "library paths"
    asked = [path for path in paths if "Skel" not in path]  # that one is the DSP's
    if not seen.loader:
        words = "no loader there that tells; whether they load shows below"
        return Result(name=name, status="ok", words=words)
    folders = ":".join(path.rpartition("/")[0] for path in paths)
    command = f"export LD_LIBRARY_PATH={shlex.quote(folders)}\n"
    command += "".join(f"{seen.loader} --list {shlex.quote(path)} 2>&1\n" for path in asked)
    said = transport.run("sh -s", data=f"{command}true".encode()).text
    missing = sorted({line.split()[0] for line in said.splitlines() if "not found" in line})
    if not missing:
        words = f"{len(asked)} libraries find all that they need"
        return Result(name=name, status="ok", words=words)
    words = f"not found there: {', '.join(missing)}"
    fix = "install the packages that have them, or a system as new as Debian 11 (glibc 2.31)"
    return Result(name=name, status="FAIL", words=words, fix=fix, exit_code=DEVICE)


def _computed(
    start: Start,
    put: Put,
    products: Mapping[tuple[Place, str], tuple[Product, StoredFile]],
    arch: int | None,
) -> Iterator[Result]:
    """One product on every part, each in a process of its own there."""
    try:
        with start() as session:
            gpus = session.gpus()
    except HeteroError as error:
        fix = "see the lines above; the program itself does not run there"
        yield Result(name="program", status="FAIL", words=str(error), fix=fix, exit_code=DEVICE)
        return
    yield Result(name="program", status="ok", words="starts there and answers")
    if not gpus:
        fix = "install the GPU's OpenCL driver there"
        yield Result(name="OpenCL", status="FAIL", words="no device", fix=fix, exit_code=DEVICE)
    for gpu in gpus:
        name = f"OpenCL {gpu['index']}"
        about = f"{gpu['name']} ({gpu['platform']}, driver {gpu['driver_version']})"
        for dtype in ("float32", "float16") if gpu["half"] else ("float32",):
            product, file = products["gpu", dtype]
            held, said = _one(start, put, product, file, str(gpu["index"]))
            words = f"{about}: {dtype} product {said}, memory {gpu['memory']}"
            yield _judged(name, held, words, _REPAIR_DRIVER, _plain(gpu))
        if not gpu["half"]:
            words = f"{about}: no half precision (cl_khr_fp16)"
            fix = "float32 works; for --dtype float16 the device has to have it"
            yield Result(name=name, status="warn", words=words, fix=fix)
    npu = f"HTP v{arch}" if arch else "ONNX Runtime's CPU provider"
    last = "repair what fails above; if nothing does, report this output with --json"
    for place, name, words, fix in (
        ("npu", "NPU", npu, "see `NPU driver` and `skel files` above"),
        ("split", "split product", f"rows on {npu} and on the GPU", last),
    ):
        product, file = products[place, "float32"]  # type: ignore[index]
        held, said = _one(start, put, product, file, None)
        yield _judged(name, held, f"{words}: product {said}", fix, {})


def _one(
    start: Start, put: Put, product: Product, file: StoredFile, opencl_device: str | None
) -> tuple[bool, str]:
    """(whether its numbers hold, what is said of it)."""
    clock = time.monotonic()
    try:
        with start() as session:
            if opencl_device is not None:
                session.call("hetero_tvm.setting_set", "opencl.device", opencl_device)
            model = session.load(put(session, file), product.manifest)
            x = product.draw()
            error = product.error(x, model.run({"x": x})["y"])
    except HeteroError as failure:
        return False, f"failed: {failure}"
    held = math.isfinite(error) and error <= product.tolerance
    seconds = time.monotonic() - clock
    return held, f"{'right' if held else 'WRONG'}, off by {error:.1e}, in {seconds:.1f} s"


def _judged(name: str, held: bool, words: str, fix: str, facts: dict[str, Any]) -> Result:
    if held:
        return Result(name=name, status="ok", words=words, facts=facts)
    return Result(name=name, status="FAIL", words=words, fix=fix, exit_code=DEVICE, facts=facts)


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: v for name, v in facts.items() if isinstance(v, str | int | float)}


def _take_away(store: DeviceStore, pushed: Sequence[StoredFile]) -> None:
    """Leave the device as it was; deployed models keep what they share with the doctor."""
    needed = {digest for bundle in store.bundles() for digest in bundle.files}
    gone = [file.sha256 for file in pushed if file.sha256 not in needed]
    names = " ".join([f"bundles/{_NAME}", "doctor-cache", *(f"store/{name}" for name in gone)])
    empty = "rmdir staging store bundles 2>/dev/null; cd / && rmdir"
    root = shlex.quote(store.root)
    store.transport.run(f"cd {root} && rm -rf {names} && {empty} {root} 2>/dev/null; true")


def _of_server(address: rpc.Address, cache_dir: Path, *, quick: bool) -> Iterator[Result]:
    from hetero_tvm.remote import Session

    def start() -> Session:
        return Session.of_server(address)

    with start() as session:
        files = json.loads(session.call("hetero_tvm.files_json", f"{_ARCH}\n{_MEMORY}"))
        soc_id = int(session.call("hetero_tvm.soc_id"))
    machine = files.get(_ARCH, "").strip()
    target = _target_of(soc_id) or _HOST
    soc = target if target != _HOST else "no Snapdragon" if soc_id < 0 else f"SoC {soc_id}"
    words = f"{address}: {machine or 'processor not told'}, {soc}"
    yield Result(name="device", status="ok", words=words)
    kilobytes = dict(
        (line.split(":")[0], int(line.split()[1]) * 1024)
        for line in files.get(_MEMORY, "").splitlines()
        if line.endswith("kB")
    )
    yield from device_look.rooms(kilobytes.get("MemAvailable"), kilobytes.get("MemTotal"), None)
    if quick:
        return
    from hetero_tvm.device_store import StoredFile

    system = os_of("linux", machine)
    if system is None:
        words = f"products cannot be built for {machine or 'a processor that is not told'}"
        fix = "ask over ssh or adb: hetero-tvm doctor --to ssh://…"
        yield Result(name="libraries", status="FAIL", words=words, fix=fix)
        return
    products = _products(target, system, None, cache_dir)
    files_of = {key: (product, StoredFile.of(product.path)) for key, product in products.items()}
    arch = load_spec(target).npu.htp_arch if target != _HOST else None
    yield from _computed(start, lambda session, file: session.push(file), files_of, arch)
