#!/usr/bin/env bash
# Every fuzz target, in C++ and in Python, for so many seconds each; ends at the first find.
#   scripts/fuzz.sh PYTHON SECONDS
set -euo pipefail
python=$1 seconds=$2
cd "$(dirname "$0")/.."
for source in tests/fuzz/cpp/*.cc; do
  echo "== C++ $(basename "$source" .cc)"
  scripts/fuzz_cpp.sh "$python" "$(basename "$source" .cc)" -max_total_time="$seconds" -verbosity=0
done
for target in $("$python" -c 'import sys; sys.path[:0] = [".", "tests/fuzz"]; import targets; print(*targets.TARGETS)'); do
  echo "== $target"
  "$python" tests/fuzz/run.py "$target" -max_total_time="$seconds" -verbosity=0
done
