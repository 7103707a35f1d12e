"""The machine that a model runs on, as figures of a run name it: this one, or a device."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from hetero_tvm import memory
from hetero_tvm.system_state import FILES, SystemState, machine, read_state

_ROOT = Path("/")
Found = TypeVar("Found")


class Surroundings:
    """By default this machine, and this process on it."""

    def state(self) -> SystemState:
        """How hot and how fast at the moment."""
        return read_state()

    def machine(self) -> dict[str, str]:
        """System, processor, SoC."""
        return machine()

    def peak_bytes(self) -> int | None:
        """Most memory that the process has had; None where the system does not say."""
        return memory.peak_bytes()


class DeviceSurroundings(Surroundings):
    """A device, by the files that its kernel shows.

    `read`: patterns of paths, one a line -> a JSON object of path and text, from there; it is the
    runtime's `hetero_tvm.files_json`. `processor`: as Linux calls it.
    """

    def __init__(self, read: Callable[[str], str], processor: str) -> None:
        self._read, self._processor = read, processor

    def state(self) -> SystemState:
        """See `Surroundings.state`."""
        return self._seen(read_state, *FILES)

    def machine(self) -> dict[str, str]:
        """See `Surroundings.machine`."""
        return self._seen(partial(machine, processor=self._processor), "/proc/cpuinfo", *FILES)

    def peak_bytes(self) -> int | None:
        """See `Surroundings.peak_bytes`: of the program that runs the model there."""
        return self._seen(memory.read_peak, f"/{memory.STATUS}")

    def _seen(self, look: Callable[[Path], Found], *patterns: str) -> Found:
        """What `look` finds in a copy of the device's files."""
        with tempfile.TemporaryDirectory(prefix="hetero-device-files-") as name:
            for path, text in json.loads(self._read("\n".join(patterns))).items():
                copy = Path(name) / Path(path).relative_to(_ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(text)
            return look(Path(name))
