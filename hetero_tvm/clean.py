"""Verb: what the cache takes on disk, and removing it.

Everything in it can be made again: compiled NPU regions and kernels, estimates, this machine's
measured rates, cross-built runtimes, packages for devices. Databases of tuned kernels are results,
which took hours; they stay.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import time
from pathlib import Path

from hetero_tvm import cli
from hetero_tvm.config import default_cache_dir
from hetero_tvm.errors import BadInput, CannotWrite

EXAMPLES = """\
examples:
  hetero-tvm clean --dry-run                say what is there
  hetero-tvm clean
  hetero-tvm clean --older-than 30          what nobody wrote for 30 days
  hetero-tvm clean --only npu --only opencl

exit codes: 0 removed, 2 bad input, 3 something cannot be removed
"""
PARTS = {  # folder of the cache -> what is in it
    "npu": "compiled NPU regions",
    "npu_contexts": "NPU binaries that several lengths share, as a device loads them",
    "npu_estimates": "the vendor's estimates of NPU regions",
    "opencl": "compiled GPU kernels",
    "llm_steps": "steps of language models, lowered",
    "llm_weights": "their weights, as devices read them",
    "host_profiles": "measured rates of this machine",
    "part_tests": "models that try a device's parts",
    "cross": "runtimes built for devices",
    "zig": "the cross-compiler's own cache",
    "wheels": "packages for devices",
    "reports": "reports of faults of ours",
}
_DAY_S = 24 * 3600


@dataclasses.dataclass(frozen=True)
class _Found:
    part: str
    entries: int
    bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `hetero-tvm clean`."""
    parser.add_argument(
        "--only", action="append", choices=list(PARTS), help="this part; may be given again"
    )
    parser.add_argument(
        "--older-than", type=float, metavar="DAYS", help="only what was not written for so long"
    )
    parser.add_argument("--dry-run", action="store_true", help="remove nothing")


def run(args: argparse.Namespace) -> int:
    """Sum up, remove, say so."""
    if args.older_than is not None and args.older_than < 0:
        raise BadInput(f"--older-than {args.older_than:g}: days, 0 or more")
    cache = default_cache_dir()
    before = time.time() - (args.older_than or 0) * _DAY_S
    found = []
    for part in args.only or PARTS:
        entries = [path for path in _entries(cache / part) if _written(path) <= before]
        total = sum(map(_bytes, entries))
        if not args.dry_run:
            for path in entries:
                _remove(path)
        found.append(_Found(part, len(entries), total))
    if args.json:
        parts = [dataclasses.asdict(row) for row in found]
        cli.emit_json("clean", {"cache": str(cache), "removed": not args.dry_run, "parts": parts})
        return 0
    lines = [
        f"{row.part:<15}{row.bytes / 1e6:>10.1f} MB  {PARTS[row.part]}"
        for row in found
        if row.entries
    ]
    total = sum(row.bytes for row in found)
    verb = "would be removed" if args.dry_run else "removed"
    cli.emit("\n".join([*lines, f"{total / 1e6:.1f} MB {verb} in {cache}"]))
    return 0


def _entries(folder: Path) -> list[Path]:
    """What lies in `folder`, which may not be there; a link in its place is not followed."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(folder.iterdir())


def _written(path: Path) -> float:
    """When it or anything in it was written last."""
    return max(each.lstat().st_mtime for each in (path, *_inside(path)))


def _bytes(path: Path) -> int:
    return sum(each.lstat().st_size for each in (path, *_inside(path)) if not each.is_dir())


def _inside(path: Path) -> list[Path]:
    return [] if path.is_symlink() or not path.is_dir() else list(path.rglob("*"))


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return  # somebody else was faster
    except OSError as error:
        raise CannotWrite(f"{path} cannot be removed: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(cli.verb_main("clean"))
