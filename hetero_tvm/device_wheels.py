"""Files out of pip's wheels for another platform, fetched when first needed and kept.

Nothing of these packages is ever part of this project: pip brings them to the user's machine, as it
brought the ones for this machine.
"""

from __future__ import annotations

import fnmatch
import logging
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from hetero_tvm.device_os import DeviceOs
from hetero_tvm.errors import NoWheel

logger = logging.getLogger(__name__)


def wheel_files(
    target: DeviceOs, package: str, version: str, patterns: Sequence[str], *, cache_dir: Path
) -> list[Path]:
    """Files of `package`'s wheel for `target` that match one of `patterns`, in the cache folder.

    Args:
        target: what the wheel is for.
        package: its name on PyPI.
        version: exactly this one.
        patterns: as in "tvm/lib/*.so": of paths inside the wheel, `*` matching any characters.
        cache_dir: where they are kept.

    Raises:
        EnvironmentProblem: no such wheel, no network, no pip; a wheel without such files.
    """
    folder = cache_dir / "wheels" / target.name / f"{package}-{version}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="wheel-", dir=folder.parent) as name:
            _fetch(target, package, version, Path(name))
            (wheel,) = Path(name).glob("*.whl")
            unpacked = Path(name) / "unpacked"
            unpacked.mkdir()
            wheel.rename(unpacked / "wheel.zip")
            if not folder.is_dir():
                unpacked.rename(folder)
    with zipfile.ZipFile(folder / "wheel.zip") as wheel_file:
        members = [
            name
            for name in wheel_file.namelist()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        ]
        if not members:
            raise NoWheel(
                f"{package} {version} for {target.name} has no file {' or '.join(patterns)}"
            )
        for member in members:
            if not (folder / member).is_file():
                _unpack(wheel_file, member, folder)
    return [folder / member for member in sorted(members)]


def _unpack(wheel: zipfile.ZipFile, member: str, folder: Path) -> None:
    """Write beside, then rename: whoever is stopped here leaves no half library."""
    with tempfile.TemporaryDirectory(prefix="file-", dir=folder) as name:
        unpacked = Path(wheel.extract(member, name))
        (folder / member).parent.mkdir(parents=True, exist_ok=True)
        unpacked.replace(folder / member)


def _fetch(target: DeviceOs, package: str, version: str, folder: Path) -> None:
    if not target.wheels:
        raise NoWheel(f"PyPI has no wheels for {target.name}: none of {package}")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    words += ["--only-binary=:all:", "--python-version", python, "--disable-pip-version-check"]
    words += [word for tag in target.wheels for word in ("--platform", tag)]
    logger.debug("%s", " ".join(words))
    done = subprocess.run(
        [*words, f"{package}=={version}"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = done.stderr.splitlines()
        lines = [line for line in said if "ERROR" in line or "No module" in line]
        last = (lines or said or ["it said nothing"])[-1]
        raise NoWheel(f"pip found no {package} {version} for {target.name}: {last.strip()[:300]}")
