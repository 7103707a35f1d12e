#!/usr/bin/env bash
# The runtime under AddressSanitizer and UndefinedBehaviorSanitizer, inside Python.
#   scripts/asan.sh PYTHON [PYTEST ARGUMENTS]
# Only our library is instrumented. Leaks are not looked for: Python and drivers leave much behind
# at the end of a process; tests/runtime/load_runs.py sees what grows.
set -euo pipefail
python=$1
shift
cd "$(dirname "$0")/.."
scripts/build_runtime.sh "$python" build/asan RelWithDebInfo \
  "-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined -Wno-stringop-overflow"
# Drivers handle signals themselves, and their C++ library must be ours' for both to be seen.
LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so.6)" \
  ASAN_OPTIONS="detect_leaks=0:handle_segv=0:allow_user_segv_handler=1" UBSAN_OPTIONS="print_stacktrace=1" \
  "$python" scripts/pytest_on.py build/asan/libhetero_runtime.so -p no:cacheprovider \
  tests/runtime/test_npu_module.py tests/runtime/test_opencl_module.py \
  tests/runtime/test_ordering.py tests/runtime/test_tracing.py tests/runtime/test_zero_copy.py \
  -k "not exit and not fork and not kind_of_memory and not outside and not standard_output and not missing_package" "$@"
