"""CLBlast, the OpenCL BLAS, on the OpenCL device that our runtime uses.

Debian's package is fetched and unpacked into a cache once (`apt-get download`, no installation);
its loader is told of our driver by an ICD file of its own.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
from opencl_device import Handle, OpenClDevice

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hetero_tvm" / "clblast"
_PACKAGES = ("libclblast1", "ocl-icd-libopencl1")
_ROW_MAJOR, _PLAIN, _TRANSPOSED = 101, 111, 112
_size = ctypes.c_size_t


class ClBlast:
    """Products of CLBlast on one device."""

    def __init__(self, driver: str) -> None:
        """Use the OpenCL `driver`, a shared library; RuntimeError where CLBlast cannot be had."""
        libraries = _fetch()
        vendors = _CACHE / "vendors"
        vendors.mkdir(exist_ok=True)
        (vendors / "driver.icd").write_text(driver + "\n")
        os.environ["OCL_ICD_VENDORS"] = str(vendors)
        loader = libraries / "libOpenCL.so.1"
        ctypes.CDLL(str(loader), mode=ctypes.RTLD_GLOBAL)
        self.blas = ctypes.CDLL(str(libraries / "libclblast.so.1"))
        self.device = OpenClDevice(str(loader), gpu=False)

    def product(self, left: np.ndarray, right: np.ndarray) -> Callable[[], np.ndarray]:
        """What multiplies `left` [M, K] with `right` [K, N] and waits; the result is read once."""
        (rows, depth), columns = left.shape, right.shape[1]
        a, b = self.device.upload(left), self.device.upload(right)
        out = np.zeros((rows, columns), np.float32)  # NaN would stay: CLBlast multiplies it by beta
        c = self.device.upload(out)
        queue = ctypes.byref(self.device.queue)
        one, zero, start = ctypes.c_float(1), ctypes.c_float(0), _size(0)

        def gemm() -> int:
            return self.blas.CLBlastSgemm(
                *(_ROW_MAJOR, _PLAIN, _PLAIN, _size(rows), _size(columns), _size(depth), one),
                *(a, start, _size(depth), b, start, _size(columns)),
                *(zero, c, start, _size(columns), queue, None),
            )

        def gemv() -> int:
            return self.blas.CLBlastSgemv(
                *(_ROW_MAJOR, _TRANSPOSED, _size(depth), _size(columns), one),
                *(b, start, _size(columns), a, start, _size(1)),
                *(zero, c, start, _size(1), queue, None),
            )

        call = gemv if rows == 1 else gemm

        def run() -> np.ndarray:
            status = call()
            if status:
                raise RuntimeError(f"CLBlast: {status}")
            self.device.finish()
            return out

        run()
        self.device.download(Handle(c.value), out)
        return run


def _fetch() -> Path:
    """The folder of the libraries, fetched if they are not there."""
    folder = _CACHE / "usr" / "lib" / f"{os.uname().machine}-linux-gnu"
    if (folder / "libclblast.so.1").exists() and (folder / "libOpenCL.so.1").exists():
        return folder
    _CACHE.mkdir(parents=True, exist_ok=True)
    command = ["apt-get", "download", *_PACKAGES]
    done = subprocess.run(command, cwd=_CACHE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    for package in _CACHE.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(_CACHE)], check=True)
    return folder
