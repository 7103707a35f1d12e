#!/usr/bin/env bash
# clang-format and clang-tidy over the runtime; warnings are errors.
#   scripts/lint_cpp.sh DIRECTORY_OF_THE_TOOLS
set -euo pipefail
tools=$1
cd "$(dirname "$0")/.."
mapfile -t sources < <(find runtime -name '*.cc')
mapfile -t headers < <(find runtime -name '*.h')
"$tools/clang-format" --dry-run --Werror "${sources[@]}" "${headers[@]}"
"$tools/cmake" -G Ninja -S runtime -B build/lint -DPython3_EXECUTABLE="$PWD/$tools/python" \
  -DCMAKE_MAKE_PROGRAM="$PWD/$tools/ninja" -DCMAKE_EXPORT_COMPILE_COMMANDS=ON >/dev/null
"$tools/clang-tidy" -p build/lint --quiet --warnings-as-errors='*' "${sources[@]}"
