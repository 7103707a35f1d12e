"""What lies on a device: files by their content, and small scripts that name them.

    ROOT/store/SHA256/NAME      one whole file; its folder appears by a rename
    ROOT/store/SHA256/chunks    of a large one: its chunks, for a later version of it to reuse
    ROOT/staging/               what is on its way; a later try goes on with it
    ROOT/bundles/NAME/run       one deployed model: a script that names files of the store

A bundle exists when its `run` does, and `run` appears by a rename, after everything that it names
is whole. So nothing half-installed can be started, and removing a bundle starts with one file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hetero_tvm import chunks
from hetero_tvm.errors import BadInput, DeviceFailure, NotDeployed
from hetero_tvm.transports.transport import Meter, Transport

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RECORD = "# bundle: "
_LARGE_BYTES = 4 << 20  # below this a file travels whole
_HASHING_S = 900.0  # for hashing what is there, on a slow device


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file of this machine and the name that it has on a device, in a folder of its own."""

    path: Path
    name: str
    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path, name: str | None = None) -> StoredFile:
        """`path`, hashed."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(path=path, name=name or path.name, sha256=digest, size=file.tell())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """One deployed model, as its script records it."""

    name: str
    files: tuple[str, ...]  # SHA-256 of everything that it needs in the store
    record: Mapping[str, Any]

    @property
    def instead_of(self) -> tuple[str, ...]:
        """SHA-256 of the artefacts that could not run there, in whose place it is."""
        return tuple(map(str, self.record.get("instead_of", ())))


class DeviceStore:
    """The store on one device; `root` None: at its usual place."""

    def __init__(self, transport: Transport, root: str | None = None) -> None:
        self.transport = transport
        word = shlex.quote(root) if root else transport.default_root()
        self.root = transport.check(
            f"mkdir -p {word}/store {word}/staging {word}/bundles && cd {word} && pwd -P"
        )
        if not self.root.startswith("/"):
            raise DeviceFailure(f"{transport.where}: {word} led to {self.root!r}")

    def path(self, file: StoredFile) -> str:
        """Where `file` lies, or will."""
        return f"{self.root}/store/{file.sha256}/{file.name}"

    def missing(self, files: Iterable[StoredFile]) -> list[StoredFile]:
        """Those that are not there as they should be; what is there and damaged is taken away."""
        wanted = {file.sha256: file for file in files}
        listing = "".join(f"{digest} {file.name}\n" for digest, file in wanted.items())
        script = (
            f"cd {shlex.quote(self.root)}/store || exit 1\n"
            "while read -r digest name; do\n"
            '  [ -e "$digest" ] || continue\n'
            '  if [ "$(sha256sum <"$digest/$name" 2>/dev/null | cut -c 1-64)" = "$digest" ]\n'
            '  then echo "$digest"; else rm -rf "$digest"; fi\n'
            "done"
        )
        there = set(
            self.transport.check(script, data=listing.encode(), timeout_s=_HASHING_S).split()
        )
        return [file for digest, file in wanted.items() if digest not in there]

    def put(self, file: StoredFile, *, meter: Meter | None = None) -> int:
        """Bring `file` there, in whole or what is new of it; the bytes that travelled.

        A large file is put together from the chunks of files that are there and from those that
        travel; whatever the device has made of it is hashed before it counts.
        """
        staged = f"{self.root}/staging/{file.sha256}"
        travelled = 0
        if file.size >= _LARGE_BYTES:
            cut = chunks.chunks_of(file.path)
            index = chunks.index_text(cut).encode()
            # A damaged index or source costs nothing but the saving: the digest decides.
            found = self._put_together(file, cut, f"{staged}/{file.name}", meter)
            travelled += found + self.transport.push(index, f"{staged}/chunks")
        else:
            travelled += self.transport.push(file.path, f"{staged}/{file.name}", meter=meter)
        target = shlex.quote(f"{self.root}/store/{file.sha256}")
        name = shlex.quote(f"{staged}/{file.name}")
        self.transport.check(
            f"chmod 755 {name} && rm -rf {target} && mv {shlex.quote(staged)} {target}"
        )
        return travelled

    def _put_together(
        self, file: StoredFile, cut: Sequence[chunks.Chunk], path: str, meter: Meter | None
    ) -> int:
        there = self._indices()
        new = chunks.travelling(cut, there)
        if sum(chunk.size for chunk in new) >= file.size:
            return self.transport.push(file.path, path, meter=meter)
        with file.path.open("rb") as source:
            parts = []
            for chunk in new:
                source.seek(chunk.offset)
                parts.append(source.read(chunk.size))
        delta = f"{path}.delta"
        travelled = self.transport.push(b"".join(parts), delta, meter=meter)
        lines = [": >all.part"]
        for piece in chunks.recipe(cut, there):
            source_path = delta if piece.source is None else f"{self.root}/store/{piece.source}"
            lines.append(
                f"tail -c +{piece.offset + 1} {shlex.quote(source_path)} "
                f"| head -c {piece.size} >>all.part"
            )
        lines.append("sha256sum <all.part")
        folder = shlex.quote(path.rpartition("/")[0])
        said = self.transport.check(
            f"cd {folder} && sh -s", data="\n".join(lines).encode(), timeout_s=_HASHING_S
        )
        name = shlex.quote(path)
        if said.split()[:1] != [file.sha256]:
            self.transport.check(f"cd {folder} && rm -f all.part {shlex.quote(delta)}")
            return travelled + self.transport.push(file.path, path, meter=meter)
        self.transport.check(f"cd {folder} && mv -f all.part {name} && rm -f {shlex.quote(delta)}")
        return travelled

    def _indices(self) -> dict[str, list[chunks.Chunk]]:
        """Chunks of the large files that are there, by `SHA256/NAME`."""
        text = self.transport.check(
            f"cd {shlex.quote(self.root)}/store && for index in */chunks; do "
            '[ -f "$index" ] || continue; folder=${index%/chunks}; '
            'for file in "$folder"/*; do [ "$file" = "$index" ] || echo "> $file"; done; '
            'cat "$index"; done'
        )
        found: dict[str, list[chunks.Chunk]] = {}
        for block in text.split("> ")[1:]:
            name, _, index = block.partition("\n")
            try:
                found[name] = chunks.read_index(index)
            except ValueError:
                continue  # it saves nothing then
        return found

    def install(self, name: str, script: str, files: Sequence[StoredFile], **record: Any) -> str:
        """Write the bundle's script beside its place; the path, for trying it before `commit`."""
        check_name(name)
        line = json.dumps({"name": name, "files": [file.sha256 for file in files], **record})
        first, _, rest = script.partition("\n")
        path = f"{self.root}/bundles/{name}/run.new"
        self.transport.push(f"{first}\n{_RECORD}{line}\n{rest}".encode(), path)
        return path

    def commit(self, name: str) -> str:
        """From now on the bundle is there; the path of its script."""
        folder = shlex.quote(f"{self.root}/bundles/{check_name(name)}")
        self.transport.check(f"cd {folder} && chmod 755 run.new && mv -f run.new run")
        return f"{self.root}/bundles/{name}/run"

    def trusted_keys(self) -> str:
        """The device's file of trusted keys; empty where it accepts everything."""
        return self.transport.check(f"cat {shlex.quote(self.root)}/trusted_keys 2>/dev/null; true")

    def accept_only(self, keys: str) -> None:
        """From now on the device's program loads nothing that no key of these lines has signed."""
        self.transport.push(keys.encode(), f"{self.root}/trusted_keys")

    def bundles(self) -> list[Bundle]:
        """What is deployed."""
        text = self.transport.check(
            f"cd {shlex.quote(self.root)}/bundles && for run in */run; do "
            f'[ -f "$run" ] && sed -n "s/^{_RECORD}//p" "$run"; done; true'
        )
        found = []
        for line in text.splitlines():
            try:
                record = json.loads(line)
                name, files = str(record.pop("name")), tuple(map(str, record.pop("files")))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise DeviceFailure(
                    f"{self.transport.where}: a script in {self.root}/bundles is no bundle of ours"
                ) from None
            found.append(Bundle(name=name, files=files, record=record))
        return found

    def remove(self, name: str) -> None:
        """Take a bundle away, and what no other one needs.

        Raises:
            BadInput: there is none of that name.
        """
        names = [bundle.name for bundle in self.bundles()]
        if name not in names:
            there = f"there are {', '.join(names)}" if names else "nothing is deployed there"
            raise NotDeployed(f"{self.transport.where}: no bundle {name}; {there}")
        self.transport.check(f"rm -rf {shlex.quote(f'{self.root}/bundles/{check_name(name)}')}")
        self.collect()

    def collect(self) -> None:
        """Delete what no bundle needs; the root too, where nothing is left."""
        needed = {digest for bundle in self.bundles() for digest in bundle.files}
        there = self.transport.check(f"ls {shlex.quote(self.root)}/store").split()
        gone = [digest for digest in there if digest not in needed and _DIGEST.fullmatch(digest)]
        script = f"cd {shlex.quote(self.root)} || exit 1\nrm -rf staging cache\n"
        script += "".join(f"rm -rf store/{digest}\n" for digest in gone)
        script += "rmdir store bundles 2>/dev/null && cd / && rmdir " + shlex.quote(self.root)
        self.transport.check(f"{script} 2>/dev/null; true")


def bundle_names(transport: Transport) -> tuple[str, ...]:
    """What is deployed at the usual place; looking makes no folder."""
    command = f"cd {transport.default_root()}/bundles 2>/dev/null && ls -d */run 2>/dev/null; true"
    return tuple(line.removesuffix("/run") for line in transport.check(command).splitlines())


def check_name(name: str) -> str:
    """`name`, where a bundle can be called so; BadInput otherwise."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"--name {name!r}: letters, digits, dots, dashes and underscores")
    return name
