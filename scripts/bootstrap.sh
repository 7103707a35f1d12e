#!/usr/bin/env bash
# Make the virtual environment, and on Debian the two things that pip cannot bring where they are
# missing: a C++ compiler and Python's venv module.
#   scripts/bootstrap.sh PYTHON VENV
set -euo pipefail
python=$1 venv=$2

"$python" - <<'EOF' || { echo "Python 3.11 or newer is needed; say which with: make PYTHON=python3.12" >&2; exit 3; }
import sys
sys.exit(sys.version_info < (3, 11))
EOF

missing=()
[ -n "${CXX:-}" ] || command -v g++ >/dev/null || command -v clang++ >/dev/null || missing+=(g++)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing from Debian: ${missing[*]}" >&2
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
  else
    echo "please install first: ${missing[*]}   (Debian: sudo apt-get install ${missing[*]})" >&2
    exit 3
  fi
fi
"$python" -m venv --clear "$venv" # --clear: an interrupted one starts anew
