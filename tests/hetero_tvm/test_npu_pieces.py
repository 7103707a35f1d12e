"""Binaries that agree in most of their bytes: stored once, and whole again."""

import numpy as np

from hetero_tvm import npu_pieces


def test_what_binaries_have_in_common_is_there_once():
    rng = np.random.default_rng(0)
    weights = rng.bytes(3 << 20)
    heads = [rng.bytes(5000 + 64 * chip) for chip in range(3)]
    binaries = {
        "region_0": [head + weights + b"tail" for head in heads],
        "region_1": [heads[0] + weights[: 1 << 20]],
    }
    pieces, numbers = npu_pieces.split(binaries)
    for name, versions in binaries.items():
        assert [b"".join(pieces[n] for n in one) for one in numbers[name]] == versions
    assert sum(map(len, pieces)) < 1.5 * len(weights)  # 10 MB in all
    assert len(set(pieces)) == len(pieces)


def test_nothing_is_in_pieces_where_there_is_nothing():
    assert npu_pieces.split({}) == ([], {})
    assert npu_pieces.split({"r": [b"", b"ab"]}) == ([b"ab"], {"r": [[], [0]]})
