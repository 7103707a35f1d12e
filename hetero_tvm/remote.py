"""An artefact that runs on a device and is called from here, as if it were loaded here.

The device's program speaks TVM's RPC over its stdin and stdout, which the transport carries: ssh
and adb have settled who may do that, nothing listens on a port, and the program ends with the line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_tvm import fallback, npu_targets, typed_json
from hetero_tvm.bundle import Manifest
from hetero_tvm.device_facts import DeviceFacts
from hetero_tvm.device_store import StoredFile
from hetero_tvm.errors import BadInput, DeviceFailure
from hetero_tvm.loader import Around, Fed, Model, Results, nothing_around
from hetero_tvm.recording import Recording, record_there
from hetero_tvm.surroundings import DeviceSurroundings, Surroundings
from hetero_tvm.transports import rpc
from hetero_tvm.transports.transport import Transport

if TYPE_CHECKING:
    import numpy as np

# TVM's pipe client gives the program two file descriptors as its last arguments. Ctrl-C is for this
# process: in a session of its own the line lasts until what runs has been ended in good order.
_JOINT = (
    "import os, sys\n"
    "*words, log, r, w = sys.argv[1:]\n"
    "os.setsid()\n"
    "os.dup2(int(r), 0); os.dup2(int(w), 1)\n"
    "os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), 2)\n"
    "os.write(2, b'%d\\n' % os.getpid())\n"
    "os.execvp(words[0], words)"
)
_BLOCK_BYTES = 1 << 20
_OWN_WORD = "hetero_device: error: "


class Session:
    """One process of the device's program. Use as a context manager."""

    def __init__(self, where: str, words: Sequence[str]) -> None:
        """`where`: the device, for messages. `words`: the command line that leads to its program.

        Raises:
            DeviceFailure: it did not start; says why.
        """
        from tvm.rpc import RPCSession, _ffi_api

        self._where = where
        self._npu_target: str | None = None
        self._log = tempfile.NamedTemporaryFile(prefix="hetero-device-", suffix=".log")
        with self.failures():
            self.rpc = RPCSession(
                _ffi_api.CreatePipeClient(sys.executable, "-c", _JOINT, *words, self._log.name)
            )

    @classmethod
    def of_bundle(cls, transport: Transport, script: str) -> Session:
        """The program of the bundle whose start script is `script` there."""
        words = transport.argv(f"exec sh {shlex.quote(script)} serve")
        return cls(transport.where, words)

    @classmethod
    def of_server(cls, address: rpc.Address) -> Session:
        """A session of a running device server."""
        return cls(str(address), [sys.executable, "-m", rpc.__name__, str(address)])

    def push(self, file: StoredFile) -> str:
        """Bring a file to a device server, by its content; goes on where an earlier try stopped.

        Returns its name in the server's folder. Raises DeviceFailure where the server refuses it.
        """
        at = self.call("hetero_tvm.file_size", file.sha256, file.name)
        if at >= 0:
            with file.path.open("rb") as source:
                source.seek(at)
                while block := source.read(_BLOCK_BYTES):
                    self.call("hetero_tvm.file_append", file.sha256, file.name, at, block)
                    at += len(block)
        return str(self.call("hetero_tvm.file_finish", file.sha256, file.name))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        # TVM ends the line when nobody holds a tensor of it any more, which is too late: a device
        # server would be busy until then. What is freed afterwards finds the line gone, and may.
        first = Path(self._log.name).read_text(errors="replace").partition("\n")[0]
        if first.isdecimal():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(first), signal.SIGTERM)
        self.rpc = None
        self._log.close()

    def call(self, name: str, *args: Any) -> Any:
        """A global function of the device's program.

        Raises:
            DeviceFailure: it failed, or the device is gone.
        """
        with self.failures():
            try:
                function = self.rpc.get_function(name)
            except AttributeError:
                raise DeviceFailure(
                    f"{self._where}: its program is of another version, without {name}; deploy "
                    "again, or start its server again with this version"
                ) from None
            return function(*args)

    def configure_npu(self, target: str | None, allow_fallback: bool) -> None:
        """See `loader.load`; before `load`."""
        if target is not None:
            self.call("hetero_tvm.setting_set", "npu.target", target)
        if allow_fallback:
            self.call("hetero_tvm.setting_set", "fallback.allow", "1")
        self._npu_target = target

    def _on_its_npu(self, manifest: Manifest) -> Manifest:
        """The manifest as the target is told of it that the device is, or that was asked for."""
        if not manifest.targets:
            return manifest
        soc = int(self.call("hetero_tvm.soc_id"))
        found = npu_targets.pick(manifest.targets, None if soc < 0 else soc, self._npu_target)
        return manifest if found is None else manifest.on(found)  # else the device says so

    def fallbacks(self) -> list[str]:
        """See `Model.fallbacks`: of what runs there."""
        return [str(line) for line in json.loads(str(self.call("hetero_tvm.fallbacks")))]

    def gpus(self) -> list[dict[str, Any]]:
        """See `Model.gpus`: those of the device."""
        return json.loads(self.call("hetero_tvm.opencl_devices_json"))

    def facts(self) -> DeviceFacts:
        """What a device server says of its machine.

        Raises:
            DeviceFailure: it says something else, or is of another version.
        """
        found = str(self.call("hetero_tvm.facts_json"))
        try:
            facts = typed_json.from_object(DeviceFacts, typed_json.parse_object(found))
        except ValueError as error:
            raise DeviceFailure(f"{self._where}: no description of a device: {error}") from None
        return dataclasses.replace(facts, where=self._where)

    def load(self, path: str, manifest: Manifest) -> RemoteModel:
        """The artefact at `path` there, described by `manifest`.

        Raises:
            DeviceFailure: it is refused or fails there.
        """
        import tvm
        from tvm import relax

        started = time.perf_counter()
        with self.failures():
            module = self.rpc.load_module(path)
            is_cpu = bool(self.call("hetero_tvm.code_is_cpu", module))
            device = self.rpc.cpu(0) if is_cpu else self.rpc.cl(0)
            machine = relax.VirtualMachine(module, [device, tvm.cpu()])
        manifest = self._on_its_npu(manifest)
        if is_cpu:  # for want of OpenCL; the session's `fallbacks` say so
            manifest = fallback.plain(manifest)
        model = RemoteModel(manifest, machine, device, self)
        model.load_seconds = time.perf_counter() - started
        return model

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Whatever RPC throws in here becomes a DeviceFailure."""
        import tvm

        try:
            yield
        except (tvm.error.InternalError, RuntimeError) as error:
            raise self._failure(error) from error
        except DeviceFailure as error:  # `Model.call` has wrapped it already
            if not isinstance(error.__cause__, tvm.error.InternalError | RuntimeError):
                raise
            raise self._failure(error.__cause__) from error

    def _failure(self, error: BaseException) -> DeviceFailure:
        """What went wrong, in the words of the device's program where it had any."""
        said = Path(self._log.name).read_text(errors="replace").strip().splitlines()[1:]
        own = [line for line in said if line.startswith(_OWN_WORD)]
        lost = "RPC" not in type(error).__name__  # not an error that the program reported
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if own:
            why = own[-1].removeprefix(_OWN_WORD)
        elif lost:
            why = f"its program ended or the line broke: {said[-1] if said else 'no word of why'}"
        else:
            why = lines[-1] if lines else type(error).__name__
        return DeviceFailure(f"{self._where}: {why}")


class RemoteModel(Model):
    """A `Model` whose memory and devices are elsewhere; inputs and outputs are arrays here."""

    def __init__(self, manifest: Manifest, machine: Any, device: Any, session: Session) -> None:
        self._remote = machine
        self._session = session
        super().__init__(manifest, _Functions(machine), device)

    @property
    def simulated(self) -> bool:
        """See `Model.simulated`: by the machine that it runs on."""
        return self.manifest.npu_provider == "qnn" and self.manifest.host == "x86_64"

    def feed(self, inputs: Mapping[str, Any]) -> Fed:
        """See `Model.feed`: the tensors are there afterwards."""
        with self._session.failures():
            return super().feed(inputs)

    def call(self, fed: Fed, around: Around = nothing_around) -> Results:
        """See `Model.call`."""
        with self._session.failures():
            return super().call(fed, around)

    def _called(self, function: Any, tensors: list[Any]) -> Any:
        result = function(*tensors)
        self._device.sync()
        return result

    def fetch(self, results: Results) -> dict[str, np.ndarray]:
        """See `Model.fetch`."""
        with self._session.failures():
            return super().fetch(results)

    def measure(self, fed: Fed, runs: int) -> tuple[Results, list[float]]:
        """See `Model.measure`: timed on the device, without the way there."""
        pieces = [piece.length for piece in fed.way] if fed.way else [None]
        values, times = [], [0.0] * runs
        for length, tensors in zip(pieces, fed.tensors, strict=True):
            function = self._programs[length].call
            with self._session.failures():
                function.set_inputs(*tensors)
                took = self._session.call(
                    "hetero_tvm.measure", self._remote.module, function.name, runs
                )
                values.append(function.outputs())
            times = [sum(pair) for pair in zip(times, json.loads(took), strict=True)]
        return Results(fed.way, values), times

    def record(self, fed: Fed, runs: int) -> Recording:
        """See `Model.record`: recorded on the device, on its clock."""
        if len(fed.tensors) > 1:
            raise BadInput("a length that runs in pieces: record one of those that are built")
        (tensors,) = fed.tensors
        function = self._programs[fed.way[0].length if fed.way else None].call
        with self._session.failures():
            function.set_inputs(*tensors)
            call = partial(
                self._session.call, "hetero_tvm.record", self._remote.module, function.name
            )
            return record_there(call, runs)

    @property
    def surroundings(self) -> Surroundings:
        """See `Model.surroundings`: the device."""
        read = partial(self._session.call, "hetero_tvm.files_json")
        return DeviceSurroundings(read, self.manifest.host)

    def counters(self) -> dict[str, int]:
        """See `Model.counters`."""
        return {
            k: int(v) for k, v in json.loads(self._session.call("hetero_tvm.counters_json")).items()
        }

    def reset_counters(self) -> None:
        """See `Model.reset_counters`."""
        self._session.call("hetero_tvm.counters_reset")

    def fallbacks(self) -> list[str]:
        """See `Model.fallbacks`."""
        return self._session.fallbacks()

    def gpus(self) -> list[dict[str, Any]]:
        """See `Model.gpus`."""
        return self._session.gpus()


class _Functions:
    """The machine's functions by name."""

    def __init__(self, machine: Any) -> None:
        self._machine = machine

    def __getitem__(self, name: str) -> _Function:
        return _Function(self._machine, name)


class _Function:
    """One function: a tuple of results cannot travel as it is, its members can."""

    def __init__(self, machine: Any, name: str) -> None:
        self._machine, self.name = machine, name

    def set_inputs(self, *tensors: Any) -> None:
        """What the next call takes."""
        self._machine.set_input(self.name, *tensors)

    def __call__(self, *tensors: Any) -> Any:
        self.set_inputs(*tensors)
        self._machine.invoke_stateful(self.name)
        return self.outputs()

    def outputs(self) -> Any:
        """Of the last call; they stay on the device until somebody reads them."""
        results = self._machine.get_outputs(self.name)
        return list(results) if isinstance(results, tuple | list) else results
