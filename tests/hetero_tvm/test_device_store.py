"""Files by content on a device that is a folder of this machine."""

import subprocess

import numpy as np
import pytest

from hetero_tvm.device_store import DeviceStore, StoredFile
from hetero_tvm.errors import BadInput, DeviceFailure
from hetero_tvm.transports.local import Local

RNG = np.random.default_rng(3)
LARGE = RNG.bytes(9_000_000)


@pytest.fixture
def store(tmp_path):
    return DeviceStore(Local(tmp_path / "a device"))


@pytest.fixture
def file(tmp_path):
    def file(name, data):
        (tmp_path / name).write_bytes(data)
        return StoredFile.of(tmp_path / name)

    return file


def content(store, file):
    return subprocess.run(["cat", store.path(file)], capture_output=True, check=True).stdout


def test_what_is_there_is_not_missing(store, file):
    small, large = file("small", b"some bytes"), file("large", LARGE)
    assert store.missing([small, large]) == [small, large]
    assert store.put(small) == small.size
    assert store.put(large) > large.size  # and its index
    assert store.missing([small, large]) == []
    assert content(store, large) == LARGE


def test_damage_on_the_device_is_found_and_mended(store, file, tmp_path):
    small = file("small", b"some bytes")
    store.put(small)
    (tmp_path / "a device" / "store" / small.sha256 / "small").write_bytes(b"some bytez")
    assert store.missing([small]) == [small]
    store.put(small)
    assert store.missing([small]) == []


def test_of_a_new_version_only_what_changed_travels(store, file):
    store.put(file("model.so", LARGE))
    changed = bytearray(LARGE)
    changed[4_000_000:4_300_000] = RNG.bytes(300_000)
    changed[100:100] = b"more code" * 50
    new = file("new.so", bytes(changed))
    travelled = store.put(new)
    assert content(store, new) == changed
    assert 300_000 < travelled < 3_000_000


def test_a_damaged_source_of_chunks_costs_only_the_saving(store, file, tmp_path):
    old = file("model.so", LARGE)
    store.put(old)
    (tmp_path / "a device" / "store" / old.sha256 / "model.so").write_bytes(bytes(len(LARGE)))
    new = file("new.so", LARGE + b"tail")
    store.put(new)
    assert content(store, new) == LARGE + b"tail"


def test_a_bundle_is_there_when_it_is_committed(store, file):
    small = file("small", b"x")
    store.put(small)
    path = store.install("one", "#!/bin/sh\necho ran $1\n", [small], target="host")
    assert store.bundles() == []
    assert store.transport.check(f"sh '{path}' early") == "ran early"
    committed = store.commit("one")
    assert store.transport.check(f"'{committed}' late") == "ran late"
    (bundle,) = store.bundles()
    assert (bundle.name, bundle.files) == ("one", (small.sha256,))
    assert bundle.record == {"target": "host"}


def test_removing_keeps_what_others_need(store, file, tmp_path):
    shared, mine = file("shared", b"shared"), file("mine", b"mine")
    for name, files in (("one", [shared, mine]), ("two", [shared])):
        for each in store.missing(files):
            store.put(each)
        store.install(name, "#!/bin/sh\n", files)
        store.commit(name)
    store.remove("one")
    assert store.missing([shared, mine]) == [mine]
    store.remove("two")
    assert not (tmp_path / "a device").exists()


def test_names(store, tmp_path):
    for name in ("../x", "", "a b", "-x", "a/b"):
        with pytest.raises(BadInput, match="letters, digits"):
            store.install(name, "#!/bin/sh\n", [])
    with pytest.raises(BadInput, match="no bundle one; nothing is deployed there"):
        store.remove("one")
    folder = tmp_path / "a device" / "bundles" / "odd"
    folder.mkdir()
    (folder / "run").write_text("#!/bin/sh\n# bundle: what\n")
    with pytest.raises(DeviceFailure, match="no bundle of ours"):
        store.bundles()
