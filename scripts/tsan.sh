#!/usr/bin/env bash
# The runtime's threads under ThreadSanitizer, inside Python: what devices do at once, and in what order.
#   scripts/tsan.sh PYTHON [PYTEST ARGUMENTS]
# -Bsymbolic: or a library that was loaded before ours lends us its std::shared_ptr, whose counts nobody sees.
# Only our library is instrumented; runtime/tsan.supp says what others' libraries are forgiven, and why.
set -euo pipefail
python=$1
shift
cd "$(dirname "$0")/.."
scripts/build_runtime.sh "$python" build/tsan RelWithDebInfo "-fsanitize=thread -Wno-tsan" \
  -DCMAKE_SHARED_LINKER_FLAGS=-Wl,-Bsymbolic
report=$(mktemp -d)
trap 'rm -rf "$report"' EXIT
# Tests in processes of their own are left out: they would start the ordinary library.
# -R: ThreadSanitizer cannot live with every address space layout.
status=0
LD_PRELOAD=$(g++ -print-file-name=libtsan.so) setarch -R env HETERO_POLL_CPU=1 \
  TSAN_OPTIONS="suppressions=$PWD/runtime/tsan.supp halt_on_error=0 exitcode=0 log_path=$report/tsan" \
  "$python" scripts/pytest_on.py build/tsan/libhetero_runtime.so -p no:cacheprovider \
  tests/runtime/test_ordering.py tests/runtime/test_tracing.py \
  -k "not exit and not fork and not kind_of_memory and not switch and not outside and not driver" "$@" || status=$?
if [ -n "$(ls -A "$report")" ]; then
  cat "$report"/*
  echo "ThreadSanitizer found something" >&2
  exit 1
fi
exit "$status"
