#!/usr/bin/env bash
# The runtime once more, with other compiler flags, into a folder of its own.
#   scripts/build_runtime.sh PYTHON FOLDER BUILD_TYPE FLAGS [MORE OPTIONS OF CMAKE]
set -euo pipefail
python=$1 folder=$2 type=$3 flags=$4
shift 4
cd "$(dirname "$0")/.."
tools=$(dirname "$python")
cmake=$(command -v cmake || echo "$tools/cmake")
ninja=$(command -v ninja || echo "$tools/ninja")
"$cmake" -G Ninja -S runtime -B "$folder" -DPython3_EXECUTABLE="$(realpath -s "$python")" \
  -DCMAKE_MAKE_PROGRAM="$(realpath "$ninja")" -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE="$type" \
  -DCMAKE_CXX_FLAGS="$flags" "$@" >/dev/null
"$cmake" --build "$folder"
