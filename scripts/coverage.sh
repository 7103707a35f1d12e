#!/usr/bin/env bash
# What the tests reach: branches of the Python packages by their own tests, lines of the C++ runtime.
#   scripts/coverage.sh PYTHON [python|runtime]      (needs the packages coverage and gcovr)
# In slices of a few test files each. What is done is kept in build/coverage and not done again until
# that test or a source changes, so an interrupted run goes on where it was.
set -euo pipefail
python=$1 part=${2:-all}
slice=${COVERAGE_SLICE:-6} # test files a process
cd "$(dirname "$0")/.."
out=build/coverage
status=0

# slices KIND SOURCES... -- TESTS... : runs `test_slice KIND FILES...` over what is not done yet.
slices() {
  local kind=$1 sources=() todo=() file
  shift
  while [ "$1" != -- ]; do sources+=("$1") && shift; done
  shift
  mkdir -p "$out/$kind"
  if [ -e "$out/$kind/begun" ] && [ -n "$(find "${sources[@]}" -newer "$out/$kind/begun" \
    \( -name '*.py' -o -name '*.cc' -o -name '*.h' -o -name '*.toml' \) -print -quit)" ]; then
    echo "sources have changed: begins anew" >&2
    rm -r "${out:?}/$kind" && mkdir "$out/$kind"
    forget_"$kind"
  fi
  [ -e "$out/$kind/begun" ] || touch "$out/$kind/begun"
  for file in "$@"; do
    [ "$out/$kind/$file.done" -nt "$file" ] || todo+=("$file")
  done
  while [ ${#todo[@]} -gt 0 ]; do
    echo "== $kind: ${#todo[@]} test files left" >&2
    if test_"$kind" "${todo[@]:0:$slice}"; then
      for file in "${todo[@]:0:$slice}"; do
        mkdir -p "$(dirname "$out/$kind/$file")" && touch "$out/$kind/$file.done"
      done
    else
      status=1
    fi
    todo=("${todo[@]:$slice}")
  done
}

forget_python() { :; } # all of it lay in the folder
test_python() {
  "$python" -m coverage run --branch --source=relay_passes,schedules,target_specs \
    --parallel-mode --data-file="$out/python/.coverage" -m pytest -q -p no:cacheprovider "$@"
}
forget_runtime() { find "$out/build" -name '*.gcda' -delete; }
test_runtime() { "$python" -m pytest -q -p no:cacheprovider "$@"; }

found() { find "$@" -name 'test_*.py' | sort; }

if [ "$part" != runtime ]; then
  mapfile -t tests < <(found tests/target_specs tests/relay_passes tests/schedules)
  slices python relay_passes schedules target_specs -- "${tests[@]}"
  "$python" -m coverage combine -q --keep --data-file="$out/python/all" "$out"/python/.coverage.*
  for package in relay_passes schedules target_specs; do
    "$python" scripts/branches.py "$out/python/all" "$package"
  done
fi

if [ "$part" != python ]; then
  scripts/build_runtime.sh "$python" "$out/build" Debug "--coverage -O0"
  # The library of the tests, and of the processes that they start.
  lib=hetero_tvm/lib
  kept=$(mktemp -d)
  put() { for f in "$1"/libhetero_runtime.so "$1"/hetero_device; do cp "$f" "$lib/new" && mv "$lib/new" "$lib/${f##*/}"; done; }
  cp "$lib"/libhetero_runtime.so "$lib"/hetero_device "$kept"
  trap 'put "$kept"; rm -r "$kept"' EXIT
  put "$out/build"
  # With those that reach it by its other borders: language models, devices' programs, signatures.
  mapfile -t tests < <(found tests/runtime
    printf 'tests/hetero_tvm/test_%s.py\n' crash_watch fallback first_load llm_session remote remote_llm signing)
  slices runtime runtime -- "${tests[@]}"
  "$python" -m gcovr -r . --filter runtime/src --filter runtime/device "$out/build"
fi
exit "$status"
