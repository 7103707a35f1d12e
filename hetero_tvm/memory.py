"""How much memory a process has used at most."""

from __future__ import annotations

import resource
from pathlib import Path

STATUS = "proc/self/status"


def peak_bytes() -> int:
    """High-water mark of this process's resident memory.

    Linux keeps one per program (`VmHWM`); getrusage's survives exec, so a child would report its
    parent's. Elsewhere getrusage has to do.
    """
    found = read_peak(Path("/"))
    if found is not None:
        return found
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read_peak(root: Path) -> int | None:
    """What `STATUS` below `root` gives as the high-water mark; None where it does not."""
    try:
        for line in (root / STATUS).read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
