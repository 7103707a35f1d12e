#!/usr/bin/env bash
# What the tests reach: branches of the Python packages by their own tests, lines of the C++ runtime.
#   scripts/coverage.sh PYTHON
set -euo pipefail
python=$1
cd "$(dirname "$0")/.."
"$python" -m pip install -q --disable-pip-version-check pytest-cov gcovr
"$python" -m pytest -q -p no:cacheprovider --cov=relay_passes --cov=schedules --cov=target_specs \
  --cov-branch --cov-report=term:skip-covered tests/target_specs tests/relay_passes tests/schedules
tools=$(dirname "$python")
cmake=$(command -v cmake || echo "$tools/cmake")
ninja=$(command -v ninja || echo "$tools/ninja")
"$cmake" -G Ninja -S runtime -B build/coverage -DPython3_EXECUTABLE="$(realpath -s "$python")" \
  -DCMAKE_MAKE_PROGRAM="$(realpath "$ninja")" -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE=Debug \
  -DCMAKE_CXX_FLAGS="--coverage -O0" >/dev/null
"$cmake" --build build/coverage
find build/coverage -name '*.gcda' -delete
# The library of the tests, and of the processes that they start.
lib=hetero_tvm/lib
kept=$(mktemp -d)
cp "$lib"/libhetero_runtime.so "$lib"/hetero_device "$kept"
trap 'for f in "$kept"/*; do cp "$f" "$lib/$(basename "$f").new" && mv "$lib/$(basename "$f").new" "$lib/$(basename "$f")"; done' EXIT
for f in libhetero_runtime.so hetero_device; do
  cp "build/coverage/$f" "$lib/$f.new" && mv "$lib/$f.new" "$lib/$f"
done
status=0
"$python" -m pytest -q -p no:cacheprovider tests/runtime || status=$?
"$python" -m gcovr -r . --filter runtime/src --filter runtime/device build/coverage
exit "$status"
