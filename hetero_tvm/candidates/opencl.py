"""One OpenCL device through ctypes, timed by its own clock; needs only Python.

    cl = OpenCl(None, "adreno")
    run = cl.run_of(source, launches, buffers)
    cl.time(run, 10)    seconds of a run, the mean of ten

Every status is checked; a failure is an `OpenClError` that names the call.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator, Sequence
from typing import Any

Handle = ctypes.c_void_p
_Size = ctypes.c_size_t
_LIBRARIES = (
    "libOpenCL.so.1",
    "libOpenCL.so",
    "/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "OpenCL.dll",
    "/System/Library/Frameworks/OpenCL.framework/OpenCL",
)
_GPU, _ANY = 4, 0xFFFFFFFF  # CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ALL
_TYPE, _NAME, _DRIVER = 0x1000, 0x102B, 0x102D
_PLATFORM_NAME = 0x0902
_BUILD_LOG = 0x1183
_PROFILING = 2  # CL_QUEUE_PROFILING_ENABLE
_STARTED, _ENDED = 0x1282, 0x1283
_READ_WRITE = 1
_LOG_LINES = 3
# Functions that return an object, and the type of each argument; else a status is returned.
_MAKERS = (
    "clCreateContext",
    "clCreateCommandQueue",
    "clCreateProgramWithSource",
    "clCreateKernel",
    "clCreateBuffer",
)


class OpenClError(Exception):
    """No device, or a call that failed."""


class Run:
    """Kernels to be launched one after the other: one run of a candidate."""

    def __init__(
        self, steps: list[tuple[Handle, Any, Any]], program: Handle, scratch: list[Handle]
    ) -> None:
        self.steps = steps  # kernel, work-items in all, work-items of a group
        self.program = program
        self.scratch = scratch


class OpenCl:
    """A context and an in-order queue on one device."""

    def __init__(self, library: str | None, device: str | None) -> None:
        """`device`: a number of `devices`, or part of a name; None takes the first GPU, else any.

        Raises:
            OpenClError: there is no such device.
        """
        self.cl = _open(library)
        found = list(_devices(self.cl))
        number = _choose(found, device)
        self.id, self.name, self.driver = found[number][0], found[number][1], found[number][2]
        self.context = self._make("clCreateContext", None, 1, ctypes.byref(self.id), None, None)
        self.queue = self._make(
            "clCreateCommandQueue", self.context, self.id, ctypes.c_ulong(_PROFILING)
        )

    @staticmethod
    def devices(library: str | None) -> list[str]:
        """A line for each device."""
        return [
            f"{number}: {name}, driver {driver} ({platform})"
            for number, (_, name, driver, platform, _) in enumerate(_devices(_open(library)))
        ]

    def buffer(self, size: int) -> Handle:
        """Memory on the device."""
        return self._make(
            "clCreateBuffer", self.context, ctypes.c_ulong(_READ_WRITE), _Size(size), None
        )

    def upload(self, content: bytes) -> Handle:
        """A buffer with `content`."""
        buffer = self.buffer(len(content))
        self.write(buffer, content)
        return buffer

    def write(self, buffer: Handle, content: bytes) -> None:
        """`content` into a buffer."""
        self._call(
            "clEnqueueWriteBuffer",
            *(self.queue, buffer, 1, _Size(0), _Size(len(content)), content, 0, None, None),
        )

    def read(self, buffer: Handle, size: int) -> bytes:
        """A buffer's first `size` bytes."""
        content = ctypes.create_string_buffer(size)
        self._call(
            "clEnqueueReadBuffer",
            *(self.queue, buffer, 1, _Size(0), _Size(size), content, 0, None, None),
        )
        return content.raw

    def release(self, buffer: Handle) -> None:
        """Give memory back."""
        self._call("clReleaseMemObject", buffer)

    def run_of(
        self,
        source: str,
        launches: Sequence[dict[str, Any]],
        buffers: Sequence[Handle],
        scratch: Sequence[int] = (),
    ) -> Run:
        """Build `source`, ready to be launched.

        Args:
            source: OpenCL C.
            launches: in order: `kernel`, `arguments` (places in `buffers`, then in `scratch`),
                `groups` and `items` along three axes.
            buffers: the candidate's parameters.
            scratch: bytes of each buffer that only its kernels use.
        """
        text = (ctypes.c_char_p * 1)(source.encode())
        program = self._make("clCreateProgramWithSource", self.context, 1, text, None)
        status = self.cl.clBuildProgram(program, 1, ctypes.byref(self.id), b"", None, None)
        if status:
            log = ctypes.create_string_buffer(1 << 14)
            self.cl.clGetProgramBuildInfo(program, self.id, _BUILD_LOG, _Size(len(log)), log, None)
            lines = [line for line in log.value.decode(errors="replace").splitlines() if line]
            self._call("clReleaseProgram", program)
            raise OpenClError(f"does not compile ({status}): {' | '.join(lines[:_LOG_LINES])}")
        own = [self.buffer(size) for size in scratch]
        every = [*buffers, *own]
        steps = []
        for launch in launches:
            kernel = self._make("clCreateKernel", program, launch["kernel"].encode())
            for index, place in enumerate(launch["arguments"]):
                self._call("clSetKernelArg", kernel, index, _Size(8), ctypes.byref(every[place]))
            groups, items = launch["groups"], launch["items"]
            total = (_Size * 3)(*(groups[axis] * items[axis] for axis in range(3)))
            steps.append((kernel, total, (_Size * 3)(*items)))
        return Run(steps, program, own)

    def drop(self, run: Run) -> None:
        """Give back what `run_of` made."""
        for kernel, _, _ in run.steps:
            self._call("clReleaseKernel", kernel)
        self._call("clReleaseProgram", run.program)
        for buffer in run.scratch:
            self.release(buffer)

    def time(self, run: Run, count: int) -> float:
        """Seconds of one run on the device, the mean of `count` one after the other."""
        pairs: list[tuple[Handle, Handle]] = []
        for _ in range(count):
            events = [self._launch(*step) for step in run.steps]
            pairs.append((events[0], events[-1]))
            for event in events[1:-1]:
                self._call("clReleaseEvent", event)
        self._call("clFinish", self.queue)
        total = 0
        for first, last in pairs:
            took = self._clock(last, _ENDED) - self._clock(first, _STARTED)
            if took <= 0:
                raise OpenClError("the driver gives no times of kernels")
            total += took
            self._call("clReleaseEvent", first)
            if last is not first:
                self._call("clReleaseEvent", last)
        return total / count * 1e-9

    def _launch(self, kernel: Handle, total: Any, items: Any) -> Handle:
        event = Handle()
        self._call(
            "clEnqueueNDRangeKernel",
            *(self.queue, kernel, 3, None, total, items, 0, None, ctypes.byref(event)),
        )
        return event

    def _clock(self, event: Handle, what: int) -> int:
        value = ctypes.c_ulonglong()
        self._call("clGetEventProfilingInfo", event, what, _Size(8), ctypes.byref(value), None)
        return value.value

    def _make(self, name: str, *arguments: object) -> Handle:
        status = ctypes.c_int()
        made = getattr(self.cl, name)(*arguments, ctypes.byref(status))
        if status.value:
            raise OpenClError(f"{name}: {status.value}")
        return Handle(made)

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self.cl, name)(*arguments)
        if status:
            raise OpenClError(f"{name}: {status}")


def _open(library: str | None) -> Any:
    """The OpenCL library."""
    names = [library] if library else [*_LIBRARIES, ctypes.util.find_library("OpenCL")]
    why = ""
    for name in filter(None, names):
        try:
            cl = ctypes.CDLL(name)
        except OSError as error:
            why = why or str(error)
            continue
        for maker in _MAKERS:
            getattr(cl, maker).restype = Handle
        return cl
    raise OpenClError(f"no OpenCL library: {why}; name one with --library PATH")


def _devices(cl: Any) -> Iterator[tuple[Handle, str, str, str, int]]:
    """Each device: id, name, driver, platform, type."""
    count, platforms = ctypes.c_uint(), (Handle * 16)()
    if cl.clGetPlatformIDs(16, platforms, ctypes.byref(count)):
        return
    for platform in map(Handle, platforms[: count.value]):
        ids, found = (Handle * 16)(), ctypes.c_uint()
        every = ctypes.c_ulong(_ANY)
        if cl.clGetDeviceIDs(platform, every, 16, ids, ctypes.byref(found)):
            continue
        title = _text(cl.clGetPlatformInfo, platform, _PLATFORM_NAME)
        for one in map(Handle, ids[: found.value]):
            kind = ctypes.c_ulong()
            cl.clGetDeviceInfo(one, _TYPE, _Size(8), ctypes.byref(kind), None)
            texts = [_text(cl.clGetDeviceInfo, one, what) for what in (_NAME, _DRIVER)]
            yield one, texts[0], texts[1], title, kind.value


def _choose(found: Sequence[tuple[Handle, str, str, str, int]], device: str | None) -> int:
    numbers = range(len(found))
    if device is None:
        fit = [n for n in numbers if found[n][4] & _GPU] or list(numbers)
    elif device.isdigit():
        fit = [n for n in numbers if n == int(device)]
    else:
        fit = [n for n in numbers if device.lower() in f"{found[n][1]} {found[n][3]}".lower()]
    if not fit:
        which = f"called {device}" if device else "at all"
        there = "; ".join(f"{n}: {found[n][1]}" for n in numbers) or "none"
        raise OpenClError(f"no OpenCL device {which}; there are: {there}")
    return fit[0]


def _text(ask: Any, one: Handle, what: int) -> str:
    value = ctypes.create_string_buffer(1024)
    ask(one, what, _Size(len(value)), value, None)
    return value.value.decode(errors="replace")
