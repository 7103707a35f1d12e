"""One OpenCL GPU through ctypes, for a machine that has neither TVM nor our runtime.

    device = OpenClDevice()                    the first GPU of any platform
    run = device.kernel(source, "name", [buffers], groups, items)
    device.median_us([run, ..])                launches in turn, medians of rounds
    device.median_us([run, ..], queues=2)      the same where one may begin before another ended

Every call's status is checked; a failure is a RuntimeError that names the call.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

_GPU, _ANY = 4, 0xFFFFFFFF  # CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ALL
_NAME, _DRIVER, _VERSION, _UNITS = 0x102B, 0x102D, 0x102F, 0x1002
_BUILD_LOG = 0x1183
_ROUNDS = 5
_ROUND_S = 0.03
Handle = ctypes.c_void_p


class OpenClDevice:
    """A context and in-order queues on the first GPU, or the first device of any kind."""

    def __init__(self, library: str = "libOpenCL.so.1", *, gpu: bool = True) -> None:
        """Raise RuntimeError where no platform has a GPU, or with `gpu=False` any device."""
        self.cl = ctypes.CDLL(library)
        for name in ("Context", "CommandQueue", "ProgramWithSource", "Kernel", "Buffer"):
            getattr(self.cl, f"clCreate{name}").restype = Handle
        count, platforms = ctypes.c_uint(), (Handle * 16)()
        self._call("clGetPlatformIDs", 16, platforms, ctypes.byref(count))
        self.id = Handle()
        kind = ctypes.c_ulong(_GPU if gpu else _ANY)
        found = (
            self.cl.clGetDeviceIDs(Handle(platform), kind, 1, ctypes.byref(self.id), None) == 0
            for platform in platforms[: count.value]
        )
        if not any(found):
            raise RuntimeError(
                f"no OpenCL platform has a {'GPU' if gpu else 'device'} (is its ICD file there?)"
            )
        self.context = self._create("clCreateContext", None, 1, ctypes.byref(self.id), None, None)
        self.queues = [
            self._create("clCreateCommandQueue", self.context, self.id, ctypes.c_ulong(0))
            for _ in range(2)
        ]
        self.queue = self.queues[0]

    def describe(self) -> dict[str, str | int]:
        """Name, driver, version and compute units."""
        units = ctypes.c_uint()
        self._call("clGetDeviceInfo", self.id, _UNITS, 4, ctypes.byref(units), None)
        return {
            "device": self._text(_NAME),
            "driver": self._text(_DRIVER),
            "opencl": self._text(_VERSION),
            "compute_units": units.value,
        }

    def buffer(self, size: int) -> Handle:
        """Memory of `size` bytes on the device."""
        return self._create(
            "clCreateBuffer", self.context, ctypes.c_ulong(1), ctypes.c_size_t(size), None
        )

    def upload(self, array: np.ndarray) -> Handle:
        """A buffer with the contents of `array`."""
        array = np.ascontiguousarray(array)
        buffer = self.buffer(array.nbytes)
        self._transfer("clEnqueueWriteBuffer", buffer, array)
        return buffer

    def download(self, buffer: Handle, array: np.ndarray) -> None:
        """The contents of `buffer` into `array`."""
        self._transfer("clEnqueueReadBuffer", buffer, array)

    def release(self, buffer: Handle) -> None:
        """Give the memory back."""
        self._call("clReleaseMemObject", buffer)

    def copy(self, source: Handle, target: Handle, size: int) -> Callable[[], None]:
        """What copies `size` bytes between buffers."""
        zero, count = ctypes.c_size_t(0), ctypes.c_size_t(size)

        def run() -> None:
            self._call(
                "clEnqueueCopyBuffer", self.queue, source, target, zero, zero, count, 0, None, None
            )

        return run

    def program(self, source: str) -> Handle:
        """`source`, built; RuntimeError with the log where it is not."""
        text = (ctypes.c_char_p * 1)(source.encode())
        program = self._create("clCreateProgramWithSource", self.context, 1, text, None)
        status = self.cl.clBuildProgram(program, 1, ctypes.byref(self.id), b"", None, None)
        if status:
            log = ctypes.create_string_buffer(1 << 14)
            self._call(
                "clGetProgramBuildInfo",
                *(program, self.id, _BUILD_LOG, ctypes.c_size_t(len(log)), log, None),
            )
            raise RuntimeError(f"clBuildProgram: {status}: {log.value.decode(errors='replace')}")
        return program

    def kernel(
        self,
        program: Handle,
        name: str,
        buffers: Sequence[Handle],
        groups: Sequence[int],
        items: Sequence[int],
    ) -> Callable[[], None]:
        """What launches kernel `name` with `buffers` over three axes."""
        kernel = self._create("clCreateKernel", program, name.encode())
        for index, buffer in enumerate(buffers):
            self._call("clSetKernelArg", kernel, index, ctypes.c_size_t(8), ctypes.byref(buffer))
        total = (ctypes.c_size_t * 3)(*(g * i for g, i in zip(groups, items, strict=True)))
        local = (ctypes.c_size_t * 3)(*items)

        def run() -> None:
            self._call(
                "clEnqueueNDRangeKernel",
                *(self.queue, kernel, 3, None, total, local, 0, None, None),
            )

        return run

    def finish(self) -> None:
        """Wait for all that was given to the queues."""
        for queue in self.queues:
            self._call("clFlush", queue)
        for queue in self.queues:
            self._call("clFinish", queue)

    def median_us(self, runs: Sequence[Callable[[], None]], queues: int = 1) -> float:
        """Microseconds of one of `runs`, launched in turn without waiting; median of rounds.

        With one queue each launch waits until the one before it has ended. With two, launches go to
        them in turn, so that one reads while the next begins, as kernels do that need not wait for
        each other.
        """
        for run in runs:
            run()
        self.finish()
        started = time.perf_counter()
        runs[0]()
        self.finish()
        count = max(8, min(400, int(_ROUND_S / (time.perf_counter() - started))))
        rounds = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            for index in range(count):
                self.queue = self.queues[index % queues]
                runs[index % len(runs)]()
            self.finish()
            rounds.append((time.perf_counter() - started) / count)
        self.queue = self.queues[0]
        return statistics.median(rounds) * 1e6

    def _text(self, what: int) -> str:
        value = ctypes.create_string_buffer(1024)
        self._call("clGetDeviceInfo", self.id, what, ctypes.c_size_t(1024), value, None)
        return value.value.decode()

    def _transfer(self, name: str, buffer: Handle, array: np.ndarray) -> None:
        size, data = ctypes.c_size_t(array.nbytes), array.ctypes.data_as(Handle)
        self._call(name, self.queue, buffer, 1, ctypes.c_size_t(0), size, data, 0, None, None)

    def _create(self, name: str, *arguments: object) -> Handle:
        status = ctypes.c_int()
        made = getattr(self.cl, name)(*arguments, ctypes.byref(status))
        if status.value:
            raise RuntimeError(f"{name}: {status.value}")
        return Handle(made)

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self.cl, name)(*arguments)
        if status:
            raise RuntimeError(f"{name}: {status}")
