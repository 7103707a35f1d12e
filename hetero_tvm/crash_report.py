"""A file to attach when the fault is ours: versions, the command, and the traceback, or what a
process was at that a signal ended.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from hetero_tvm import __version__
from hetero_tvm.config import default_cache_dir

_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnxruntime", "onnxruntime-qnn")
_VARIABLES = "HETERO_"  # values of ours; nothing else of the environment is anyone's business
_SECRET = "_TOKEN"  # and of these only that they are set


def write(what: BaseException | str, argv: Sequence[str]) -> Path | None:
    """Write the report of an error, or of what is known of a process that died.

    Returns:
        Its path, or None where no folder takes it.
    """
    for folder in (default_cache_dir() / "reports", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(prefix="hetero-tvm-", suffix=".txt", dir=folder)
            with os.fdopen(number, "w", encoding="utf-8", errors="replace") as file:
                file.write(text(what, argv))
        except OSError:
            continue
        return Path(name)
    return None


def text(what: BaseException | str, argv: Sequence[str]) -> str:
    """The report; no contents of models or tensors, but the paths of the command line."""
    variables = sorted(name for name in os.environ if name.startswith(_VARIABLES))
    lines = [
        "hetero-tvm ended by a mistake of its own. Read this before you send it: it has the",
        "command line, with its paths. `hetero-tvm doctor --json` says more about the machine.",
        "",
        f"time            {datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')}",
        f"command         hetero-tvm {' '.join(argv)}",
        f"hetero-tvm      {__version__}",
        f"Python          {sys.version.split()[0]}",
        f"system          {platform.platform()}",
        *(f"{name:<16}{_version(name)}" for name in _PACKAGES),
        *(f"{name}={_shown(name)}" for name in variables),
        "",
        what if isinstance(what, str) else "".join(traceback.format_exception(what)),
    ]
    return "\n".join(lines)


def _shown(variable: str) -> str:
    return "(not shown)" if variable.endswith(_SECRET) else os.environ[variable]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
