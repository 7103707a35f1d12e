"""Whether the environment is what `requirements/` says, and an SBOM of it; no network is needed.

    python scripts/audit.py [--pinned] [--weaknesses]

Checks that what is installed fits together (`pip check`), that every pin has a version and SHA-256
hashes, and that the SBOM (CycloneDX, build/sbom.json, checked against its schema) names every pin
with its package URL. What is installed in another version than the pinned one is told; with
`--pinned`, for an environment that was made from the pins, that is an error too. Exit code 1 where
something is wrong.

Known weaknesses are in a database, so asking for them cannot work offline: `--weaknesses` has
pip-audit ask PyPI's, one request for each package, and fails where it cannot be reached.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "requirements" / "linux-x86_64-py311.txt"
SBOM = ROOT / "build" / "sbom.json"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;]+)(.*)$")


def pins() -> dict[str, tuple[str, int]]:
    """Version and number of hashes of each package."""
    found = {}
    for line in PINS.read_text().replace("\\\n", " ").splitlines():
        match = _PIN.match(line)
        if match is None:
            sys.exit(f"{PINS.name}: not a pin: {line[:80]}")
        found[match[1].lower()] = match[2], match[3].count("--hash=sha256:")
    return found


def other_versions(pinned: dict[str, tuple[str, int]]) -> list[str]:
    """What is installed in another version than the pinned one."""
    found = []
    for name, (version, _) in pinned.items():
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        if here != version:
            found.append(f"{name}: {here} is installed, {version} is pinned")
    return found


def complaints_of_sbom(pinned: dict[str, tuple[str, int]]) -> list[str]:
    """Write the SBOM; pins that it does not name."""
    SBOM.parent.mkdir(exist_ok=True)
    words = ["requirements", str(PINS), "--validate", "--output-reproducible", "--of", "JSON"]
    subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", *words, "-o", str(SBOM)],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    named = {
        part.get("purl", "").split("?")[0] for part in json.loads(SBOM.read_text())["components"]
    }
    wanted = {f"pkg:pypi/{name.replace('_', '-')}@{v}": name for name, (v, _) in pinned.items()}
    return [f"{name}: not in {SBOM.name}" for url, name in wanted.items() if url not in named]


def main() -> int:
    """Print what is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pinned", action="store_true", help="other versions are errors")
    parser.add_argument("--weaknesses", action="store_true", help="ask PyPI's database as well")
    args = parser.parse_args()
    fits = subprocess.run([sys.executable, "-m", "pip", "check"], check=False).returncode == 0
    pinned = pins()
    found = [f"{name}=={v}: no hash" for name, (v, hashes) in pinned.items() if not hashes]
    found += complaints_of_sbom(pinned)
    others = other_versions(pinned)
    found += others if args.pinned else []
    for line in dict.fromkeys([*found, *others]):
        print(line)
    print(f"{len(pinned)} pins, {len(found)} complaints; {SBOM.relative_to(ROOT)} written")
    if args.weaknesses:
        words = ["--no-deps", "--disable-pip", "-r", str(PINS)]
        fits &= (
            subprocess.run([sys.executable, "-m", "pip_audit", *words], check=False).returncode == 0
        )
    else:
        print("known weaknesses: not asked for (--weaknesses, needs PyPI's database)")
    return 0 if fits and not found else 1


if __name__ == "__main__":
    sys.exit(main())
