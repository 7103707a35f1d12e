#!/usr/bin/env bash
# Write down what the development environment is made of: every package with its hashes, and an SBOM.
#   scripts/pin.sh PYTHON        (of a Linux on x86-64; needs the packages uv and cyclonedx-bom)
set -euo pipefail
python=$1
cd "$(dirname "$0")/.."
tools=$(dirname "$python")
"$python" -m pip install -q --disable-pip-version-check uv cyclonedx-bom
asked=$(mktemp)
trap 'rm -f "$asked"' EXIT
"$python" scripts/requirements.py --build sign qnn cpu-opencl cross plot llm serve completion tune docs dev >"$asked"
index=$("$python" -m pip config get global.index-url 2>/dev/null || true)
pins=requirements/linux-x86_64-py311.txt
"$tools/uv" pip compile -q --generate-hashes --no-header --no-annotate --no-emit-index-url \
  --python-version 3.11 --python-platform x86_64-manylinux_2_36 ${index:+--index-url "$index"} \
  "$asked" -o "$pins"
mkdir -p build
"$tools/cyclonedx-py" requirements "$pins" --output-reproducible --of JSON -o build/sbom.json
echo "$(grep -c '==' "$pins") packages in $pins and build/sbom.json"
