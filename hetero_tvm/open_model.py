"""An artefact ready to be called: loaded here, or where it is deployed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hetero_tvm import bundle
from hetero_tvm.errors import NotDeployed

if TYPE_CHECKING:
    from hetero_tvm.loader import Model


@contextlib.contextmanager
def opened(
    path: Path,
    to: str | None = None,
    root: str | None = None,
    *,
    allow_fallback: bool = False,
    npu_target: str | None = None,
) -> Iterator[Model]:
    """The artefact at `path`, on the device at `to`; None: this machine.

    A model on a device is a `Model` like any other and lives as long as the context.
    `allow_fallback`, `npu_target`: see `loader.load`.

    Raises:
        BadInput: as `loader.load`, or not deployed there.
        DeviceFailure: the device is not reached, or fails.
    """
    if to is None:
        from hetero_tvm import loader

        yield loader.load(path, allow_fallback=allow_fallback, npu_target=npu_target)
        return
    from hetero_tvm.device_store import DeviceStore, StoredFile
    from hetero_tvm.remote import Session
    from hetero_tvm.transports import rpc
    from hetero_tvm.transports.address import open_transport

    manifest = bundle.read_manifest(path)
    artefact = StoredFile.of(path)
    if to.partition(":")[0] in ("rpc", "rpcs"):
        with Session.of_server(rpc.parse(to)) as session:
            session.configure_npu(npu_target, allow_fallback)
            yield session.load(session.push(artefact), manifest)
        return
    with open_transport(to) as transport:
        store = DeviceStore(transport, root)
        found = [b for b in store.bundles() if b.record.get("artefact") == artefact.sha256]
        if not found:
            stand_ins = [b for b in store.bundles() if artefact.sha256 in b.instead_of]
            if stand_ins:
                raise NotDeployed(
                    f"{path} cannot run on {transport.where}; by --allow-fallback "
                    f"{stand_ins[0].record['file']} was deployed in its place: run that one"
                )
            raise NotDeployed(
                f"{path} is not deployed on {transport.where}, or in another version; run: "
                f"hetero-tvm deploy {path} --to {to}"
            )
        with Session.of_bundle(transport, f"{store.root}/bundles/{found[0].name}/run") as session:
            session.configure_npu(npu_target, allow_fallback)
            there = f"{store.root}/store/{artefact.sha256}/{found[0].record['file']}"
            yield session.load(there, manifest)
