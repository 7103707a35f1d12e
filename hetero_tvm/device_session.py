"""One client's session on a device server: a process of its own, which keeps to its folder.

    python -m hetero_tvm.device_session FOLDER DESCRIPTOR

TVM's RPC lets a client call what is registered here and load code that it has uploaded: whoever
has the token may run code as this user. What the functions for files touch lies in FOLDER, and
where the kernel has Landlock nothing that runs in this process can write anywhere else.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hetero_tvm.errors import BadInput, DeviceLacks

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Landlock's own numbers, the same on every 64-bit machine (linux/landlock.h, unistd.h).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITES = 0b1111111110010  # write a file, remove and make files and folders of every kind
_PATH_BENEATH, _NO_NEW_PRIVILEGES = 1, 38


class Folder:
    """Files by their content, in one folder; nothing outside is reached through it."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def path(self, name: str) -> Path:
        """Where `name` lies.

        Raises:
            BadInput: that would be outside, through `..`, an absolute name or a link.
        """
        try:
            path = (self._root / name).resolve()
        except (ValueError, OSError):  # a zero byte; too long; links in a circle
            path = self._root
        if path == self._root or not path.is_relative_to(self._root):
            raise BadInput(f"{name!r} is not in the session's folder")
        return path

    def facts(self) -> str:
        """What this machine is and has, as JSON; free storage is the folder's."""
        from hetero_tvm.device_facts import read_facts
        from hetero_tvm.transports.local import Local

        return json.dumps(dataclasses.asdict(read_facts(Local(self._root), str(self._root))))

    def size(self, digest: str, name: str) -> int:
        """Bytes of a file that have arrived; -1 where it is whole."""
        whole, part = self._of(digest, name)
        if whole.is_file():
            return -1
        return part.stat().st_size if part.is_file() else 0

    def append(self, digest: str, name: str, offset: int, data: bytes) -> None:
        """The file's next bytes."""
        _, part = self._of(digest, name)
        part.parent.mkdir(exist_ok=True)
        with part.open("ab") as file:
            if file.tell() != offset:
                raise BadInput(f"{name}: {file.tell()} bytes are here, not {offset}")
            file.write(data)

    def finish(self, digest: str, name: str) -> str:
        """Make what has arrived a file, if its hash is right; its name in the folder."""
        whole, part = self._of(digest, name)
        if not whole.is_file():
            with part.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != digest:
                part.unlink()
                raise BadInput(f"{name} arrived damaged; send it again")
            part.replace(whole)
        return str(whole.relative_to(self._root))

    def _of(self, digest: str, name: str) -> tuple[Path, Path]:
        if not _DIGEST.fullmatch(digest) or not _NAME.fullmatch(name):
            raise BadInput(f"{digest[:80]!r}/{name[:100]!r}: no name of a file here")
        whole = self.path(f"{digest}/{name}")
        return whole, whole.with_name(f"{name}.part")


def confine(folder: Path) -> bool:
    """Let this process write below `folder` and to devices only; False where the kernel cannot."""
    if platform.system() != "Linux" or sys.maxsize < 1 << 32:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    handled = ctypes.c_uint64(_WRITES)
    rules = libc.syscall(_CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(8), 0)
    if rules < 0:
        return False
    try:
        for path in (folder, Path("/dev")):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            # struct landlock_path_beneath_attr is packed: eight bytes, then four.
            rule = _WRITES.to_bytes(8, sys.byteorder) + descriptor.to_bytes(4, sys.byteorder)
            added = libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0)
            os.close(descriptor)
            if added != 0:
                return False
        if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
            return False
        return bool(libc.syscall(_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


def main(arguments: list[str]) -> int:
    """Serve the client behind the descriptor until it goes away."""
    folder, descriptor = Path(arguments[0]), int(arguments[1])
    os.chdir(folder)
    os.environ.setdefault("HETERO_CACHE_DIR", str(folder / "cache"))
    confined = confine(folder)  # first: it counts for threads that begin afterwards
    print(f"session: {'confined to' if confined else 'NOT confined to'} {folder}", file=sys.stderr)
    from hetero_tvm import runtime

    runtime.load()
    _register(Folder(folder))
    import tvm_ffi

    tvm_ffi.get_global_func("rpc.ServerLoop")(descriptor)
    return 0


def _register(folder: Folder) -> None:
    import tvm_ffi

    from hetero_tvm import loader, signing
    from hetero_tvm.bundle import read_manifest
    from hetero_tvm.device_fit import check_qnn

    def register(name: str, function: Callable[..., Any]) -> None:
        tvm_ffi.register_global_func(name, function, override=True)

    language_model = tvm_ffi.get_global_func("hetero_tvm.language_model")
    code_load = tvm_ffi.get_global_func("hetero_tvm.code_load")
    setting_set = tvm_ffi.get_global_func("hetero_tvm.setting_set")

    def checked(name: str) -> Path:
        path = folder.path(name)
        manifest = read_manifest(path)
        loader.check_fits(path, manifest)
        try:
            check_qnn(path, manifest)
        except DeviceLacks as error:
            if not manifest.fallback:
                raise
            setting_set("npu.unfit", str(error))  # the runtime says it, or asks what may stand in
        signing.check_trusted(path)
        return path

    register("tvm.rpc.server.workpath", lambda name: str(folder.path(name)))
    register("tvm.rpc.server.load_module", lambda name: code_load(str(checked(name))))
    register("hetero_tvm.language_model", lambda name: language_model(str(checked(name))))
    register("hetero_tvm.facts_json", folder.facts)
    register("hetero_tvm.file_size", folder.size)
    register("hetero_tvm.file_append", lambda d, n, at, data: folder.append(d, n, at, bytes(data)))
    register("hetero_tvm.file_finish", folder.finish)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
