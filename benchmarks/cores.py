"""How many cores this machine gives two busy threads at the moment.

python benchmarks/cores.py [--seconds S] [--json]

Two processors of a virtual machine can be two threads of one core, or be shared with neighbours:
then two devices that are these processors are no faster than one, whatever a compiler does. What is
measured of both together means something only where both were there.
`Readers` asks the same of memory.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

TWO = 1.75  # rate of two threads over one from which on there are two cores
_PROBE_S = 0.15
_ROWS, _DEPTH, _COLUMNS = 128, 1024, 1024  # fits the cache that belongs to a core, nearly
_READ = 1, 4096, 4096  # 64 MiB of weights, in no cache


def _products(rows: int, depth: int, columns: int) -> list[Callable[[], object]]:
    """For each of two threads a matrix product with a weight of its own."""
    rng = np.random.default_rng(0)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    x = rng.standard_normal((rows, depth), dtype=np.float32)
    products = []
    for _ in range(2):
        weight = rng.standard_normal((depth, columns), dtype=np.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "product",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, depth])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])],
            [numpy_helper.from_array(weight, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        products.append(functools.partial(session.run, None, {"x": x}))
    return products


class Readers:
    """Two threads that each read as much memory as they can, against one of them.

    Both read a weight for one row of activations, as a language model does for each token.
    """

    def __init__(self) -> None:
        self._products = _products(*_READ)

    def one(self) -> float:
        """One thread's time for its weight, in µs."""
        return self._us(self._products[:1])

    def both(self) -> float:
        """The time in which each of two threads has read its own weight, in µs."""
        return self._us(self._products)

    def _us(self, products: list[Callable[[], object]]) -> float:
        threads = [threading.Thread(target=product) for product in products]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (time.perf_counter() - begin) * 1e6


class Cores:
    """Two threads with a matrix product each, against one of them."""

    def __init__(self) -> None:
        self._products = _products(_ROWS, _DEPTH, _COLUMNS)

    def now(self) -> float:
        """Rate of two threads over the rate of one; takes a third of a second."""
        alone = self._rate(self._products[:1])
        return self._rate(self._products) / alone

    def _rate(self, products: list[Callable[[], object]]) -> float:
        rates: list[float] = []

        def work(product: Callable[[], object]) -> None:
            begin, runs = time.perf_counter(), 0
            while (passed := time.perf_counter() - begin) < _PROBE_S:
                product()
                runs += 1
            rates.append(runs / passed)

        threads = [threading.Thread(target=work, args=(product,)) for product in products]
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
