"""Which target of an artefact a device is."""

import pytest

from hetero_tvm.errors import BadInput, WrongMachine
from hetero_tvm.npu_targets import NpuTarget, listing, pick, require

GEN_2 = NpuTarget(name="gen-2", soc="SM8550", htp_arch=73, soc_ids=(519, 536))
GEN_3 = NpuTarget(name="gen-3", soc="SM8650", htp_arch=75, soc_ids=(557,))
ANY = NpuTarget(name="own", soc="mine", htp_arch=79, soc_ids=())


@pytest.mark.parametrize(
    ("soc", "wanted", "found"),
    [
        pytest.param(536, None, GEN_2, id="by_its_soc"),
        pytest.param(557, None, GEN_3, id="not_the_first"),
        pytest.param(None, None, GEN_2, id="a_simulator_is_the_first"),
        pytest.param(None, "gen-3", GEN_3, id="a_simulator_is_what_is_asked_for"),
        pytest.param(618, None, None, id="none_of_them"),
    ],
)
def test_pick(soc, wanted, found):
    assert pick([GEN_2, GEN_3], soc, wanted) == found


def test_a_target_without_numbers_takes_every_soc():
    assert pick([GEN_2, ANY], 618) == ANY


def test_errors_name_all_of_them():
    both = r"gen-2 \(SM8550, HTP v73\), gen-3 \(SM8650, HTP v75\)"
    with pytest.raises(BadInput, match=f"no target gen-4 in it; there are {both}"):
        pick([GEN_2, GEN_3], None, "gen-4")
    with pytest.raises(WrongMachine, match=f"m.so: .* for {both}, this device is SoC 618; build"):
        require("m.so", [GEN_2, GEN_3], 618)
    assert require("m.so", [GEN_2, GEN_3], 557) == GEN_3
    assert listing([ANY]) == "own (mine, HTP v79)"
