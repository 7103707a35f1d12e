"""The device is a folder of this machine: what runs over ssh elsewhere, without ssh."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from hetero_tvm import runtime
from hetero_tvm.transports.transport import Transport


class Local(Transport):
    """Commands run in this machine's shell; deployments go to `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"local:{folder}")
        self._folder = folder.absolute()

    def argv(self, command: str) -> list[str]:
        """See `Transport.argv`."""
        return ["sh", "-c", command]

    def default_root(self) -> str:
        """See `Transport.default_root`."""
        return shlex.quote(str(self._folder))

    def environment(self) -> Mapping[str, str]:
        """See `Transport.environment`: a driver of Python's packages, which no loader knows of."""
        driver = runtime.library_paths()["opencl.fallback_library"]
        return {"HETERO_OPENCL_FALLBACK_LIB": str(driver)} if driver else {}

    @contextlib.contextmanager
    def forward(self, port: int) -> Iterator[int]:
        """See `Transport.forward`: it is this machine's own port."""
        yield port
