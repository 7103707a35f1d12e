"""Fetch the parts of the report's page that are not ours, from the npm registry, into the tree.

    python scripts/vendor_page.py            write hetero_tvm/page/vendor/
    python scripts/vendor_page.py --check    compare it with what the registry has

Each package is pinned by version and by the SHA-512 that the registry states. To update one: a new
row, then run this and the report's tests.
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path

REGISTRY = "https://registry.npmjs.org"
FOLDER = Path(__file__).resolve().parent.parent / "hetero_tvm" / "page" / "vendor"

# package, version, integrity, {file in the package: file here}
PACKAGES = (
    (
        "d3-color",
        "3.1.1",
        "sha512-lfab8x0Bj0UO7SNsY8dZSbNIA6ipbkE3X0NG9nqjCu6CfCHZseuDn"
        "OSJY7hidKrjpP++i1M2qT+FlAdPKYRilA==",
        {"dist/d3-color.min.js": "d3-color.js", "LICENSE": "d3-color.LICENSE"},
    ),
    (
        "d3-dispatch",
        "3.0.2",
        "sha512-sAzH4Y4nsLo8eSqw5jKiZt+LU2wZmL/qS+OkxQGjhwazB/D7TY34R"
        "/QK1eshfGr7cZEKymKZ/Haem7m+lu98Sg==",
        {"dist/d3-dispatch.min.js": "d3-dispatch.js", "LICENSE": "d3-dispatch.LICENSE"},
    ),
    (
        "d3-drag",
        "3.0.1",
        "sha512-OWeoayCq8J69hUIjvL+Mb6Q6Oaj/fyHV5XaXByEUAG+JUjIfTGDnk"
        "3qGpcXrD3VmQ3BSV96fcbM6fqq7C0tbPA==",
        {"dist/d3-drag.min.js": "d3-drag.js", "LICENSE": "d3-drag.LICENSE"},
    ),
    (
        "d3-ease",
        "3.0.2",
        "sha512-B5znKqRmKROAN4oHWQ50W/qisVjA9GXh2WMsVKdFVp4DxWmcrOswe"
        "qgUOUVsv5th96kwaZlokU6SlV4J3gak1w==",
        {"dist/d3-ease.min.js": "d3-ease.js", "LICENSE": "d3-ease.LICENSE"},
    ),
    (
        "d3-interpolate",
        "3.0.2",
        "sha512-IRzGU62DtxhvsnSTWMQIdnoZ6gA+BCWwBon1EJI6SjoN595799b6z"
        "/QRBzXfFhE8iupUPp3042yBNo0STPqnzQ==",
        {"dist/d3-interpolate.min.js": "d3-interpolate.js", "LICENSE": "d3-interpolate.LICENSE"},
    ),
    (
        "d3-selection",
        "3.0.1",
        "sha512-ODSf35vqCrlCfp7hrm0eZjvOosSXSYLjqvIlhMBV9q9VOx7EBJG6p"
        "c+uXBswEZNJgCGJ+qnKYcWutbZDIxe/Xg==",
        {"dist/d3-selection.min.js": "d3-selection.js", "LICENSE": "d3-selection.LICENSE"},
    ),
    (
        "d3-timer",
        "3.0.2",
        "sha512-1Il1aliroVSErrv5aulRBxAY+7+DnaoLIWGd1C6SsBTWDeobWiP/V"
        "69vwb8vT6abR1kKwaNe1196pmaQ1fK90A==",
        {"dist/d3-timer.min.js": "d3-timer.js", "LICENSE": "d3-timer.LICENSE"},
    ),
    (
        "d3-transition",
        "3.0.2",
        "sha512-RcjCsdFgyFoDB+QXLC5m60ZkTN0k9zH+ovoLlTdJnDS1Abfbcuowi"
        "M4pCKSTOclNibS4f4J4cbv2m7O7y8NTOQ==",
        {"dist/d3-transition.min.js": "d3-transition.js", "LICENSE": "d3-transition.LICENSE"},
    ),
    (
        "d3-zoom",
        "3.0.1",
        "sha512-kfjD3BDQu/FOatpZ6JdMSyIoDwTxIpI29ySTI2J5ZlDaH1WbuJGQJ"
        "2Q9oJkWTEZEW98j6idezoomSD3Cn2zwiw==",
        {"dist/d3-zoom.min.js": "d3-zoom.js", "LICENSE": "d3-zoom.LICENSE"},
    ),
    (
        "uplot",
        "1.6.32",
        "sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+"
        "jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
        {
            "dist/uPlot.iife.min.js": "uplot.js",
            "LICENSE": "uplot.LICENSE",
            "dist/uPlot.min.css": "uplot.css",
        },
    ),
)


def fetch(package: str, version: str, integrity: str) -> tarfile.TarFile:
    """The package's archive, checked."""
    name = package.rsplit("/", 1)[-1]
    with urllib.request.urlopen(f"{REGISTRY}/{package}/-/{name}-{version}.tgz") as answer:
        data = answer.read()
    found = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != integrity:
        sys.exit(f"{package} {version}: {found}, expected {integrity}")
    return tarfile.open(fileobj=io.BytesIO(data))


def main() -> int:
    """Write, or compare with `--check`."""
    check = sys.argv[1:] == ["--check"]
    FOLDER.mkdir(parents=True, exist_ok=True)
    differs = []
    for package, version, integrity, files in PACKAGES:
        with fetch(package, version, integrity) as archive:
            for inside, here in files.items():
                member = archive.extractfile(f"package/{inside}")
                assert member is not None, f"{package}: no {inside}"
                text = member.read()
                if not check:
                    (FOLDER / here).write_bytes(text)
                elif (FOLDER / here).read_bytes() != text:
                    differs.append(here)
    for here in differs:
        print(f"{here}: not what the registry has", file=sys.stderr)
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
