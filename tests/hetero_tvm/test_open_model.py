"""The same model, here and where it is deployed."""

import numpy as np
import pytest

from hetero_tvm.errors import BadInput
from hetero_tvm.open_model import opened


def test_here_and_there_give_the_same(deployed_here):
    x = np.random.default_rng(5).standard_normal((4, 32), np.float32)
    with opened(deployed_here.artefact) as here:
        mine = here.run({"x": x})["y"]
    with opened(deployed_here.artefact, deployed_here.address) as there:
        np.testing.assert_allclose(there.run({"x": x})["y"], mine, rtol=1e-5, atol=1e-6)


def test_what_is_not_deployed_there(deployed_here, tmp_path):
    with pytest.raises(BadInput, match=r"is not deployed on local:.*run: hetero-tvm deploy "):
        with opened(deployed_here.artefact, f"local:{tmp_path}"):
            pass
