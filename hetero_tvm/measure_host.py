"""Measures this machine in a process of its own, so that the memory it takes is given back.

    ours     no profile is kept  ▸  passes lines of progress on       ▸  reads the profile
    apart                           measures as `host_profile` says      writes it, and ends

What goes wrong there is one line here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from hetero_tvm import child_python, host_profile
from hetero_tvm.errors import EnvironmentProblem
from target_specs.loader import load_spec

_MODULE = "hetero_tvm.measure_host"


def measure_apart(progress: host_profile.Tell) -> host_profile.HostProfile:
    """The profile of this machine, measured; takes about a minute.

    Args:
        progress: called with a line before every measurement.

    Raises:
        EnvironmentProblem: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, errors = Path(folder) / "host.toml", Path(folder) / "errors"
        with (
            errors.open("w") as said,
            subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(path)],
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=child_python.environment(),
            ) as process,
        ):
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    progress(line.rstrip("\n"))
            except BaseException:  # Ctrl-C: nobody waits for it any more
                process.kill()
                raise
        found = None if process.returncode else host_profile.read(path)
        if found is None:
            last = ["it ended without a word", *errors.read_text().strip().splitlines()][-1]
            raise EnvironmentProblem(
                f"this machine could not be measured ({last}): {host_profile.VARIABLE}=shipped "
                "plans with the shipped figures"
            )
    return found


def main(path: Path) -> None:
    """Measure and write to `path`; lines of progress go to the standard output."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # drivers print there
    machine = host_profile.describe_machine()
    profile = host_profile.measure(load_spec("host"), machine, lambda line: print(line, file=lines))
    host_profile.write(path, profile, machine)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
