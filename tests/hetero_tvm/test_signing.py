"""Keys, signatures, and what is refused."""

import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

import hetero_tvm
from hetero_tvm import bundle, signing
from hetero_tvm.errors import BadInput


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two private keys, and a file that trusts the first."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        signing.new_key(folder / name)
    (folder / "trusted").write_text("# ours\n\n" + (folder / "mine.pub").read_text())
    return folder


@pytest.fixture
def signed(deployed_here, keys, tmp_path):
    path = tmp_path / "signed.so"
    path.write_bytes(deployed_here.artefact.read_bytes())
    signing.append_signature(path, signing.load_key(keys / "mine"))
    return path


def test_a_private_key_is_its_owners_alone(keys):
    assert stat.S_IMODE((keys / "mine").stat().st_mode) == 0o600
    with pytest.raises(BadInput, match="exists; a key is never overwritten"):
        signing.new_key(keys / "mine")


def test_signed_by_whom(signed, keys, deployed_here):
    (mine,) = signing.read_keys(keys / "mine.pub")
    assert signing.signer(signed) == mine
    assert signing.signer(deployed_here.artefact) is None
    assert bundle.read_manifest(signed) == bundle.read_manifest(deployed_here.artefact)


def test_another_signature_replaces_the_first(signed, keys):
    size = signed.stat().st_size
    signing.append_signature(signed, signing.load_key(keys / "other"))
    assert signed.stat().st_size == size
    assert [signing.signer(signed)] == signing.read_keys(keys / "other.pub")


def test_only_what_a_trusted_key_signed_is_loaded(signed, keys, deployed_here, monkeypatch):
    monkeypatch.setenv("HETERO_TRUSTED_KEYS", str(keys / "trusted"))
    hetero_tvm.load(signed)
    with pytest.raises(BadInput, match=r"not signed by any among the keys in .*trusted, and noth"):
        hetero_tvm.load(deployed_here.artefact)
    signing.append_signature(signed, signing.load_key(keys / "other"))
    with pytest.raises(BadInput, match=r"signed by ed25519 .*, which is not among the keys"):
        hetero_tvm.load(signed)


def test_the_usual_file_counts_too(signed, keys, deployed_here, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert signing.trusted_file() is None
    (tmp_path / "hetero_tvm").mkdir()
    (tmp_path / "hetero_tvm" / "trusted_keys").write_text((keys / "trusted").read_text())
    signing.check_trusted(signed)
    with pytest.raises(BadInput, match="not signed by any"):
        signing.check_trusted(deployed_here.artefact)


def test_a_changed_byte_anywhere_is_refused(signed, keys, monkeypatch):
    """Every region of the file, whoever notices: checksums, or the signature itself."""
    monkeypatch.setenv("HETERO_TRUSTED_KEYS", str(keys / "trusted"))
    data = signed.read_bytes()
    code = bundle.read_manifest(signed).library_bytes
    end = bundle.size_without_signature(signed)
    places = {
        "first byte": 0,
        "code": code // 2,
        "manifest": code + 10,
        "hash of the manifest": end - 40,
        "footer's magic": end - 1,
        "signature": end + 5,
        "public key": end + 70,
        "signature's magic": len(data) - 1,
    }
    for name, at in places.items():
        changed = bytearray(data)
        changed[at] ^= 1
        signed.write_bytes(changed)
        with pytest.raises(BadInput):
            hetero_tvm.load(signed)
            pytest.fail(f"a changed {name} was loaded")


def test_honest_checksums_do_not_help_a_changed_artefact(signed, keys):
    """Who changes it can compute hashes anew, but not the signature."""
    block = signed.read_bytes()[bundle.size_without_signature(signed) :]
    manifest = bundle.read_manifest(signed)
    code = bytearray(signed.read_bytes()[: manifest.library_bytes])
    code[100] ^= 1
    signed.write_bytes(code)
    bundle.append_manifest(signed, manifest)
    with signed.open("ab") as file:
        file.write(block)
    bundle.read_manifest(signed)
    with pytest.raises(BadInput, match="its signature is not of this artefact"):
        signing.check_trusted(signed, keys / "trusted")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("rsa AAAA", id="another_kind"),
        pytest.param("ed25519", id="no_key"),
        pytest.param("ed25519 AAAA", id="too_short"),
        pytest.param("ed25519 ???", id="no_base64"),
    ],
)
def test_a_line_that_is_no_key_trusts_nobody(tmp_path, signed, text):
    (tmp_path / "trusted").write_text(f"# keys\n{text}\n")
    with pytest.raises(BadInput, match=r"trusted, line 2: no key"):
        signing.check_trusted(signed, tmp_path / "trusted")
    with pytest.raises(BadInput, match="no file of trusted keys"):
        signing.check_trusted(signed, tmp_path / "none")


def test_what_is_no_private_key(tmp_path):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BadInput, match=r"no private key .*--new-key"):
        signing.load_key(tmp_path / "text")
    for key, encryption, words in (
        (x25519.X25519PrivateKey.generate(), serialization.NoEncryption(), "another kind"),
        (
            ed25519.Ed25519PrivateKey.generate(),
            serialization.BestAvailableEncryption(b"secret"),
            "no private key",
        ),
    ):
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        (tmp_path / "key").write_bytes(pem)
        with pytest.raises(BadInput, match=words):
            signing.load_key(tmp_path / "key")
