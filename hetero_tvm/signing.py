"""Signed artefacts: who made one, and that nothing in it was changed since.

    [ artefact ][ signature | public key | magic ]

The signature (Ed25519, RFC 8032) is over the artefact's footer, which holds the hash of the
manifest, which holds the hash of the code: so over every byte. Where a file of trusted keys is
named, by HETERO_TRUSTED_KEYS or as `trusted_keys` in ~/.config/hetero_tvm, nothing else is loaded.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_tvm import bundle
from hetero_tvm.errors import CannotWrite, KeyUnusable, MissingPackage, SignatureRefused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_CONTEXT = b"hetero_tvm artefact 1\0"  # what is signed is nothing else by accident
_KIND = "ed25519"
VARIABLE = "HETERO_TRUSTED_KEYS"


def new_key(path: Path) -> Path:
    """Write a private key to `path`, readable by its owner only, and its public one beside it.

    Returns the public key's path. Raises BadInput where one of them exists.
    """
    serialization, ed25519 = _library()
    public = path.with_name(f"{path.name}.pub")
    for file in (path, public):
        if file.exists():
            raise KeyUnusable(f"{file}: exists; a key is never overwritten")
    key = ed25519.Ed25519PrivateKey.generate()
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(text)
        public.write_text(f"{public_line(_raw(key))}\n")
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error
    return public


def load_key(path: Path) -> Ed25519PrivateKey:
    """The private key in `path`.

    Raises:
        BadInput: none is there, or it is of another kind, or locked.
    """
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise KeyUnusable(
            f"{path}: no private key ({error}); make one with `hetero-tvm sign --new-key {path}`"
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise KeyUnusable(f"{path}: a key of another kind than Ed25519")
    return key


def append_signature(artefact: Path, key: Ed25519PrivateKey) -> None:
    """Sign the artefact, whose manifest must be in place; an earlier signature goes away."""
    size = bundle.size_without_signature(artefact)
    signature = key.sign(_CONTEXT + bundle.read_footer(artefact))
    with artefact.open("r+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(bundle.SIGNATURE.pack(signature, _raw(key), bundle.SIGNATURE_MAGIC))


def signer(artefact: Path) -> bytes | None:
    """The public key that signed the artefact, whose checksums hold; None: it is not signed.

    Raises:
        BadInput: the signature does not belong to it.
    """
    size = bundle.size_without_signature(artefact)
    if size == artefact.stat().st_size:
        return None
    from cryptography.exceptions import InvalidSignature

    _, ed25519 = _library()
    with artefact.open("rb") as file:
        file.seek(size)
        signature, public, _ = bundle.SIGNATURE.unpack(file.read(bundle.SIGNATURE.size))
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(
            signature, _CONTEXT + bundle.read_footer(artefact)
        )
    except InvalidSignature:
        raise SignatureRefused(
            f"{artefact}: its signature is not of this artefact: it was changed, or its signature "
            "was; get it again from who made it"
        ) from None
    return bytes(public)


def check_trusted(artefact: Path, trusted: Path | None = None) -> None:
    """Refuse an artefact that none of the trusted keys has signed; `trusted` None: as configured.

    Raises:
        BadInput: not signed, or by somebody else. Nothing where no file of keys is named.
    """
    trusted = trusted or trusted_file()
    if trusted is None:
        return
    keys = read_keys(trusted)
    found = signer(artefact)
    if found in keys:
        return
    said = f"signed by {public_line(found)}, which is not" if found else "not signed by any"
    raise SignatureRefused(
        f"{artefact}: {said} among the keys in {trusted}, and nothing else is accepted here; sign "
        f"it: hetero-tvm sign {artefact} --key KEY"
    )


def trusted_file() -> Path | None:
    """The file of trusted keys that is configured; None: everything is accepted."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME")
    usual = (Path(base) if base else Path.home() / ".config") / "hetero_tvm" / "trusted_keys"
    return usual if usual.is_file() else None


def read_keys(path: Path) -> list[bytes]:
    """Public keys, one a line, as `new_key` writes them; a `#` begins a comment.

    Raises:
        BadInput: it cannot be read, or a line is no key: then nothing may be trusted by guess.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyUnusable(f"{path}: no file of trusted keys: {error}") from None
    return [
        _key_in(line, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]


def public_line(public: bytes) -> str:
    """A public key as files hold it."""
    return f"{_KIND} {base64.b64encode(public).decode()}"


def _key_in(line: str, where: str) -> bytes:
    words = line.split()
    try:
        if len(words) >= 2 and words[0] == _KIND:
            public = base64.b64decode(words[1], validate=True)
            if len(public) == 32:
                return public
    except ValueError:
        pass
    raise KeyUnusable(f"{where}: no key; one is written as: {_KIND} BASE64")


def _raw(key: Ed25519PrivateKey) -> bytes:
    serialization, _ = _library()
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingPackage(
            "signatures need the package cryptography; run: pip install 'hetero-tvm[sign]'"
        ) from None
    return serialization, ed25519
