"""Libraries between the runtime and OpenCL or ONNX Runtime, where every call can be made to fail.

The calls are read from the runtime's own lists (`cl_api.h`, `ort_api.h`), so none is left out.
A shim has the same functions as the real library, counts each call and passes it on. The runtime
takes it as it takes any library (`HETERO_OPENCL_LIB`, `HETERO_ORT_LIB`). A plan is:

    CALL NTH KIND VALUE     at the NTH call of CALL from now on (0: at every one)

    fail    it does not happen; an OpenCL call gives the code VALUE
    lie     it says that it succeeded and did nothing, or made nothing (VALUE 0); it happens and
            gives a code that does not exist (VALUE 1); what it reports is all 0xFF (VALUE 2)
    delay   it happens after VALUE milliseconds
    hang    it does not come back, until the shim is told to let go
    crash   it reads a bad address
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "runtime/src"

_COMMON = r"""
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef int32_t cl_int;
typedef uint32_t cl_uint, cl_bool;
typedef uint64_t cl_ulong, cl_bitfield;

enum { FAIL = 1, LIE, DELAY, HANG, CRASH };
struct Call { const char* name; atomic_long count, at, kind, value; };
static struct Call calls[CALLS];
static atomic_int let_go;

static void load_plan(const char* plan) {
  for (int i = 0; i < CALLS; ++i) atomic_store(&calls[i].kind, 0);
  atomic_store(&let_go, 0);
  char name[96], kind[8];
  long nth, value;
  int used;
  for (; sscanf(plan, "%95s %ld %7s %ld %n", name, &nth, kind, &value, &used) == 4; plan += used) {
    for (int i = 0; i < CALLS; ++i) {
      if (strcmp(calls[i].name, name) != 0) continue;
      atomic_store(&calls[i].at, nth == 0 ? 0 : atomic_load(&calls[i].count) + nth);
      atomic_store(&calls[i].value, value);
      const char* const kinds = "fldhc";
      const int known = (int)(strchr(kinds, *kind) - kinds) + 1;
      atomic_store(&calls[i].kind, known);
    }
  }
}
void fault_plan(const char* plan) { load_plan(plan); }
void fault_let_go(void) { atomic_store(&let_go, 1); }
long fault_count(const char* name) {
  for (int i = 0; i < CALLS; ++i) if (strcmp(calls[i].name, name) == 0) return calls[i].count;
  return -1;
}
/* What goes wrong with this call: 0, FAIL or LIE; the others happen in here. */
static long fault(int i, long* value) {
  const long now = atomic_fetch_add(&calls[i].count, 1) + 1;
  const long kind = atomic_load(&calls[i].kind), at = atomic_load(&calls[i].at);
  if (kind == 0 || (at != 0 && at != now)) return 0;
  *value = atomic_load(&calls[i].value);
  if (kind == CRASH) *(volatile int*)16 = 1;
  if (kind == DELAY) usleep((useconds_t)*value * 1000);
  if (kind == HANG) while (!atomic_load(&let_go)) usleep(1000);
  return kind == DELAY || kind == HANG ? 0 : kind;
}
static void* library;
__attribute__((constructor)) static void begin(void) {
  const char* names[] = {NAMES};
  for (int i = 0; i < CALLS; ++i) calls[i].name = names[i];
  library = dlopen(getenv(REAL), RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) { fprintf(stderr, "shim: %s\n", dlerror()); abort(); }
  if (getenv("FAULT_PLAN")) load_plan(getenv("FAULT_PLAN"));
}
"""

_ORT_BROKEN = r"""
typedef void* (*CreateStatus)(int, const char*);
static void* broken(void) { return ((CreateStatus)real_table[0])(1, "broken by the shim"); }
"""

# The real table has more slots than the runtime knows; it only ever reads up to the last it knows.
_ORT_END = r"""
static const void* const* get_api(uint32_t version) {
  struct Base { const void* const* (*get_api)(uint32_t); const char* (*get_version)(void); };
  const struct Base* base = ((const struct Base* (*)(void))dlsym(library, "OrtGetApiBase"))();
  real_table = base->get_api(version);
  if (real_table == NULL) return NULL;
  memcpy(table, real_table, sizeof(table));
  WRAP
  return table;
}
static const char* get_version(void) { return "shim"; }
static const struct { const void* a; const void* b; } base = {get_api, get_version};
const void* OrtGetApiBase(void) { return &base; }
"""


@functools.cache
def opencl_calls() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name -> (type of the result, types of the parameters), of all that the runtime may call."""
    text = (SOURCES / "opencl/cl_api.h").read_text()
    found = re.findall(r"X\(([\w* ]+), (\w+),\s*\(([^()]*)\)\)", text.replace("\\\n", " "))
    return {f"cl{name}": (result, _types(types)) for result, name, types in found}


@functools.cache
def ort_calls() -> dict[str, tuple[int, str, tuple[str, ...]]]:
    """Name -> (slot, type of the result, types of the parameters)."""
    text = (SOURCES / "npu/ort_api.h").read_text().replace("\\\n", " ")
    found = re.findall(r"X\((\d+), ([\w* ]+), (\w+),\s*\(([^()]*)\)\)", text)
    return {name: (int(slot), result, _types(types)) for slot, result, name, types in found}


def _types(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(","))


def _c(name: str) -> str:
    """A type of the headers in C: a handle or a function is a pointer."""
    plain = name in ("int", "size_t", "void") or re.fullmatch(
        r"cl_(int|uint|bool|ulong|bitfield)", name
    )
    return name if plain else "void*"


def _opencl_function(index: int, name: str, result: str, types: tuple[str, ...]) -> str:
    parameters = ", ".join(f"{_c(one)} a{i}" for i, one in enumerate(types))
    passed = ", ".join(f"a{i}" for i in range(len(types)))
    made = _c(result)
    last = len(types) - 1
    has_status = made == "void*" and types[-1] == "cl_int*"
    status = f"if (a{last}) *(cl_int*)a{last} = " if has_status else "(void)"
    fails = f"{status}(cl_int)value; " if has_status else ""
    no = {"cl_int": "return (cl_int)value;", "void*": fails + "return NULL;", "void": "return;"}
    yes = {
        "cl_int": "return 0;",
        "void*": (f"{status}0; " if has_status else "") + "return NULL;",
        "void": "return;",
    }
    call = f"(({made} (*)({', '.join(map(_c, types))}))real)({passed})"
    odd = {
        "cl_int": f"{call}; return 12345;",
        "void*": f"void* made = {call}; {status}12345; return made;",
        "void": f"{call}; return;",
    }
    garbled = ""
    if re.search(r"Get\w*Info", name):  # .., what, size, place, size needed
        garbled = (
            f"cl_int s = {call}; if (a{last - 1}) memset(a{last - 1}, 0xFF, a{last - 2});"
            f" if (a{last}) *(size_t*)a{last} = (size_t)-1; return s;"
        )
    elif name in ("clGetPlatformIDs", "clGetDeviceIDs"):
        garbled = f"cl_int s = {call}; if (a{last}) *(cl_uint*)a{last} = (cl_uint)-1; return s;"
    elif name == "clEnqueueMapBuffer":
        garbled = f"char* at = {call}; return at ? at + 64 : at;"
    return f"""
{made} {name}({parameters}) {{
  static void* real;
  if (!real) real = dlsym(library, "{name}");
  long value = 0, kind = fault({index}, &value);
  if (kind == FAIL) {{ {no[made]} }}
  if (kind == LIE && value == 0) {{ {yes[made]} }}
  if (kind == LIE && value == 1) {{ {odd[made]} }}
  {f"if (kind == LIE) {{ {garbled} }}" if garbled else ""}
  return {call};
}}"""


def _ort_function(index: int, name: str, slot: int, result: str, types: tuple[str, ...]) -> str:
    parameters = ", ".join(f"{_c(one)} a{i}" for i, one in enumerate(types))
    passed = ", ".join(f"a{i}" for i in range(len(types)))
    made = _c(result)
    call = f"(({made} (*)({', '.join(map(_c, types))}))real_table[{slot}])({passed})"
    no = {"void*": "return broken();", "void": "return;"}[made]
    if result == "const char*":
        no = "return NULL;"
    return f"""
static {made} shim_{name}({parameters}) {{
  long value = 0, kind = fault({index}, &value);
  if (kind == FAIL) {{ {no} }}
  if (kind == LIE) {{ return{" NULL" if made == "void*" else ""}; }}
  return {call};
}}"""


def _compiled(name: str, source: str, names: list[str], real: str) -> Path:
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / "hetero_tvm_shims"
    folder.mkdir(exist_ok=True)
    library = folder / f"{name}-{digest}.so"
    if not library.is_file():
        code = folder / f"{name}-{digest}.c"
        code.write_text(source)
        beside = library.with_suffix(f".{os.getpid()}.part")
        listed = ",".join(f'\\"{one}\\"' for one in names)
        command = f'cc -w -O1 -shared -fPIC -DCALLS={len(names)} -DNAMES="{listed}"'
        command += f' -DREAL="\\"{real}\\"" -o {beside} {code} -ldl'
        subprocess.run(command, shell=True, check=True)
        beside.replace(library)
    return library


@functools.cache
def opencl_shim(instead: str = "") -> Path:
    """The library; the one that it passes calls on to is named by FAULT_REAL_OPENCL.

    `instead`: C functions in the place of those of their names, to which no plan applies.
    """
    calls = opencl_calls()
    functions = [
        _opencl_function(index, name, *types)
        for index, (name, types) in enumerate(calls.items())
        if re.search(rf" {name}\(.*\{{$", instead, re.MULTILINE) is None
    ]
    source = _COMMON + "".join(functions) + instead
    return _compiled("opencl", source, list(calls), "FAULT_REAL_OPENCL")


@functools.cache
def ort_shim() -> Path:
    """The library; the one that it passes calls on to is named by FAULT_REAL_ORT."""
    calls = ort_calls()
    functions = [
        _ort_function(index, name, *facts) for index, (name, facts) in enumerate(calls.items())
    ]
    slots = max(slot for slot, _, _ in calls.values()) + 1
    tables = f"static const void* const* real_table;\nstatic const void* table[{slots}];\n"
    tables += _ORT_BROKEN
    wrap = " ".join(f"table[{slot}] = shim_{name};" for name, (slot, _, _) in calls.items())
    source = _COMMON + tables + "".join(functions) + _ORT_END.replace("WRAP", wrap)
    return _compiled("ort", source, list(calls), "FAULT_REAL_ORT")


class Shim:
    """One of both in this process, where the runtime has loaded it or will."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.fault_count.restype = ctypes.c_long

    def plan(self, text: str) -> None:
        """What goes wrong from now on; nothing where the text is empty."""
        self._library.fault_plan(text.encode())

    def count(self, call: str) -> int:
        """How often it was called so far."""
        return int(self._library.fault_count(call.encode()))

    def let_go(self) -> None:
        """End what hangs."""
        self._library.fault_let_go()
