"""A driver that imports dma-bufs, and a heap that gives them, where the machine has neither.

The driver is the machine's own OpenCL library behind a shim: it says that it has Qualcomm's
extension, and takes a descriptor only as that extension describes it. The heap is a library that is
loaded before the others and answers for `/dev/dma_heap/system`; what it gives is a memfd, which is
memory with a descriptor too. So the kernels that run are real, on memory that was imported.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import fault_shims
from fault_runs import libraries

COHERENT = "cl_qcom_ext_host_ptr cl_qcom_dmabuf_host_ptr cl_qcom_ext_host_ptr_iocoherent"
PADDING = 64  # bytes that the driver wants behind what it imports

_DRIVER = r"""
#include <sys/mman.h>
#include <sys/stat.h>
static long number(const char* name) { return getenv(name) ? atol(getenv(name)) : 0; }

cl_int clGetDeviceInfo(void* device, cl_uint key, size_t size, void* out, size_t* needed) {
  cl_int (*real)(void*, cl_uint, size_t, void*, size_t*) = dlsym(library, "clGetDeviceInfo");
  if (key == 0x40A0 && size >= 4) {  // padding, of four bytes whatever room there is
    *(cl_uint*)out = (cl_uint)number("DRIVER_PADDING");
    return 0;
  }
  if (key == 0x1053 && getenv("DRIVER_SVM") && out) {
    *(cl_bitfield*)out = (cl_bitfield)number("DRIVER_SVM");
    return 0;
  }
  if (key != 0x1030) return real(device, key, size, out, needed);
  static char text[1 << 16];
  if (real(device, key, sizeof(text) / 2, text, NULL) != 0) return -30;
  strcat(strcat(text, " "), getenv("DRIVER_EXTENSIONS"));
  if (needed) *needed = strlen(text) + 1;
  if (out && size > strlen(text)) strcpy(out, text);
  return 0;
}

/* Whether it is a dma-buf of that size, mapped there. */
static int is_sound(cl_bitfield flags, size_t size, const void* host) {
  const struct { cl_uint type, policy; int descriptor; volatile char* data; }* given = host;
  if (!(flags & 8) || given->type != 0x411D || given->policy != 0x40A9) return 0;
  struct stat about;
  if (fstat(given->descriptor, &about) != 0) return 0;
  if ((size_t)about.st_size < size + (size_t)number("DRIVER_PADDING")) return 0;
  char* seen = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, given->descriptor, 0);
  if (seen == MAP_FAILED) return 0;
  const char before = seen[0];
  seen[0] = (char)~before;
  const int is_same = given->data[0] == (char)~before;
  seen[0] = before;
  munmap(seen, size);
  return is_same;
}
void* clCreateBuffer(void* context, cl_bitfield flags, size_t size, void* host, cl_int* status) {
  void* (*real)(void*, cl_bitfield, size_t, void*, cl_int*) = dlsym(library, "clCreateBuffer");
  if (!(flags >> 29 & 1)) return real(context, flags, size, host, status);
  if (number("DRIVER_REFUSES") || !is_sound(flags, size, host)) {
    *status = -30;
    return NULL;
  }
  void* data = *(void**)((char*)host + 16);
  if (number("DRIVER_COPIES")) data = aligned_alloc(4096, size);
  return real(context, flags & ~(1UL << 29), size, data, status);
}
"""

_HEAP = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static long left = -1;  /* bytes to give; below 0: no limit */

int open(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const int mode = va_arg(more, int);
  va_end(more);
  if (strncmp(path, "/dev/dma_heap/", 14) != 0)
    return ((int (*)(const char*, int, ...))dlsym(RTLD_NEXT, "open"))(path, flags, mode);
  if (getenv("HEAP_BYTES") && left < 0) left = atol(getenv("HEAP_BYTES"));
  errno = strcmp(path, "/dev/dma_heap/system") != 0 ? ENOENT : getenv("HEAP_DENIES") ? EACCES : 0;
  return errno ? -1 : memfd_create("heap", MFD_CLOEXEC);
}

int ioctl(int descriptor, unsigned long request, ...) {
  va_list more;
  va_start(more, request);
  struct { uint64_t bytes; uint32_t made, flags; uint64_t rest; }* asked = va_arg(more, void*);
  va_end(more);
  if (request != 0xC0184800)  /* DMA_HEAP_IOCTL_ALLOC */
    return ((int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl"))
        (descriptor, request, asked);
  const long bytes = (long)((asked->bytes + 4095) / 4096 * 4096);
  errno = asked->made || asked->flags != (O_RDWR | O_CLOEXEC) || asked->rest ? EINVAL
          : left >= 0 && bytes > left                                              ? ENOMEM
                                                                                   : 0;
  if (errno) return -1;
  if (left >= 0) left -= bytes;
  asked->made = (uint32_t)memfd_create("dma-buf", MFD_CLOEXEC);
  return ftruncate((int)asked->made, bytes);
}
"""


def _heap() -> Path:
    digest = hashlib.sha256(_HEAP.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / "hetero_tvm_shims"
    folder.mkdir(exist_ok=True)
    library = folder / f"heap-{digest}.so"
    if not library.is_file():
        code = library.with_suffix(".c")
        code.write_text(_HEAP)
        beside = library.with_suffix(f".{os.getpid()}.part")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", beside, code, "-ldl"], check=True)
        beside.replace(library)
    return library


def variables(extensions: str = COHERENT, *, heap: bool = True) -> dict[str, str]:
    """The environment of a process whose OpenCL driver has `extensions`, on a machine with a heap.

    More of them: DRIVER_SVM (its bits of shared virtual memory), DRIVER_REFUSES, DRIVER_COPIES;
    HEAP_DENIES, HEAP_BYTES (that it gives); FAULT_PLAN (`fault_shims`).
    """
    shim = fault_shims.opencl_shim(_DRIVER)
    return {
        "HETERO_OPENCL_LIB": str(shim),
        "FAULT_REAL_OPENCL": libraries()["FAULT_REAL_OPENCL"],
        "DRIVER_EXTENSIONS": extensions,
        "DRIVER_PADDING": str(PADDING),
        **({"LD_PRELOAD": str(_heap())} if heap else {}),
    }
