"""An artefact ready to be called: loaded here, or where it is deployed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hetero_tvm import bundle
from hetero_tvm.errors import NotDeployed, WrongKindOfModel

if TYPE_CHECKING:
    from hetero_tvm.loader import Model
    from hetero_tvm.remote import Session
    from hetero_tvm.token_sequence import TokenSequence


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
    manifest = bundle.read_manifest(path)
    if manifest.llm is not None:
        raise WrongKindOfModel(f"{path}: a language model; `hetero-tvm generate` takes --to")
    with _there(path, to, root) as (session, name):
        session.configure_npu(npu_target, allow_fallback)
        yield session.load(name, manifest)


@contextlib.contextmanager
def opened_llm(
    path: Path, to: str | None = None, root: str | None = None
) -> Iterator[TokenSequence]:
    """As `opened`, of a language model, with an empty sequence."""
    if to is None:
        from hetero_tvm.llm_session import load_llm

        yield load_llm(path)
        return
    from hetero_tvm.remote_llm import RemoteLlm

    manifest = bundle.read_manifest(path)
    if manifest.llm is None:
        raise WrongKindOfModel(f"{path}: not a language model; run it with `hetero-tvm run`")
    with _there(path, to, root) as (session, name):
        yield RemoteLlm(session, name, manifest)


@contextlib.contextmanager
def _there(path: Path, to: str, root: str | None) -> Iterator[tuple[Session, str]]:
    """A session of the device's program, and what the artefact is called there."""
    from hetero_tvm.device_store import DeviceStore, StoredFile
    from hetero_tvm.remote import Session
    from hetero_tvm.transports import rpc
    from hetero_tvm.transports.address import open_transport

    artefact = StoredFile.of(path)
    if to.partition(":")[0] in ("rpc", "rpcs"):
        with Session.of_server(rpc.parse(to)) as session:
            yield session, session.push(artefact)
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
            yield session, f"{store.root}/store/{artefact.sha256}/{found[0].record['file']}"
