"""How many cores this machine gives two busy threads at the moment.

python benchmarks/cores.py [--seconds S] [--json]

Two processors of a virtual machine can be two threads of one core, or be shared with neighbours:
then two devices that are these processors are no faster than one, whatever a compiler does. What is
measured of both together means something only where both were there.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

TWO = 1.75  # rate of two threads over one from which on there are two cores
_PROBE_S = 0.15
_ROWS, _DEPTH, _COLUMNS = 128, 1024, 1024  # fits the cache that belongs to a core, nearly


class Cores:
    """Two threads with a matrix product each, against one of them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        weight = rng.standard_normal((_DEPTH, _COLUMNS), dtype=np.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "product",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [_ROWS, _DEPTH])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [_ROWS, _COLUMNS])],
            [numpy_helper.from_array(weight, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._sessions = [
            ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            for _ in range(2)
        ]
        self._x = rng.standard_normal((_ROWS, _DEPTH), dtype=np.float32)

    def now(self) -> float:
        """Rate of two threads over the rate of one; takes a third of a second."""
        alone = self._rate(self._sessions[:1])
        return self._rate(self._sessions) / alone

    def _rate(self, sessions: list[ort.InferenceSession]) -> float:
        rates: list[float] = []

        def work(session: ort.InferenceSession) -> None:
            begin, runs = time.perf_counter(), 0
            while (passed := time.perf_counter() - begin) < _PROBE_S:
                session.run(None, {"x": self._x})
                runs += 1
            rates.append(runs / passed)

        threads = [threading.Thread(target=work, args=(session,)) for session in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(rates)


def main() -> int:
    """Look for a while and print what was seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cores, seen = Cores(), []
    end = time.perf_counter() + args.seconds
    while not seen or time.perf_counter() < end:
        seen.append(round(cores.now(), 2))
    two = sum(value >= TWO for value in seen) / len(seen)
    if args.json:
        print(json.dumps({"cores": seen, "share_of_time_with_two": two}))
    else:
        print(f"cores: {' '.join(map(str, seen))}; two in {two:.0%} of the looks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
