#!/usr/bin/env bash
# Feed one of the runtime's parsers with what libFuzzer makes up, under AddressSanitizer and UBSan.
#   scripts/fuzz_cpp.sh PYTHON TARGET [LIBFUZZER FLAGS]      TARGET: a file of tests/fuzz/cpp
# Needs clang with its runtime (Debian: apt-get install clang libclang-rt-dev). What is found on the
# way is kept in build/fuzz/corpus; a crash is written to build/fuzz/crashes.
set -euo pipefail
python=$1 target=$2
shift 2
cd "$(dirname "$0")/.."
source=tests/fuzz/cpp/$target.cc
[ -f "$source" ] || { echo "no $source; there are: $(cd tests/fuzz/cpp && echo *.cc)" >&2; exit 2; }
if ! command -v clang++ >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq clang libclang-rt-dev >/dev/null
  else
    echo "please install first: clang libclang-rt-dev   (Debian: sudo apt-get install …)" >&2
    exit 3
  fi
fi
folder() { "$python" -c "import importlib.util as u; print(u.find_spec('$1').submodule_search_locations[0])"; }
tvm=$(folder tvm) ffi=$(folder tvm_ffi)
case $target in
  manifest) parts=(c_api/manifest.cc c_api/sha256.cc untrusted.cc border.cc) ;;
  npu_header) parts=(npu/region.cc npu/targets.cc settings.cc untrusted.cc) ;;
  kernel_table) parts=(opencl/kernel_table.cc) ;;
  npy) parts=(../device/npy.cc) ;;
esac
out=build/fuzz
mkdir -p "$out/corpus/$target" "$out/crashes"
program=$out/$target
if [ ! -x "$program" ] || [ -n "$(find runtime tests/fuzz/cpp -newer "$program" -name '*.[ch]*')" ]; then
  clang++ -std=c++17 -g -O1 -fno-omit-frame-pointer \
    -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
    -Iruntime -Iruntime/include -Itests/fuzz/cpp -isystem "$tvm/include" -isystem "$ffi/include" \
    "$source" "${parts[@]/#/runtime/src/}" \
    -L"$tvm/lib" -L"$ffi/lib" -ltvm_runtime -ltvm_ffi -Wl,-rpath,"$tvm/lib:$ffi/lib" -o "$program"
fi
dictionary=tests/fuzz/dictionaries/$target.dict
[ -f "$dictionary" ] && set -- "-dict=$dictionary" "$@"
exec "$program" -artifact_prefix="$out/crashes/$target-" -max_len=4096 -timeout=5 -rss_limit_mb=2048 \
  "$@" "$out/corpus/$target" "tests/fuzz/corpus/$target"
