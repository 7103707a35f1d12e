"""A language model's architecture as the planner's problem: no weights, no ONNX, one pass.

A decoder layer is nine operators; their cuts are those along which a chain can stay divided:

    norm 1 ▸ qkv ▸ rope ▸ attention ▸ output + residual
    norm 2 ▸ gate/up ▸ swiglu ▸ down + residual

- rows (tokens): all of them but attention, which reads every key and value;
- columns of a product's weight: head groups in qkv, rope and attention, feed-forward columns in
  gate/up and swiglu, hidden columns in the two residual products.

NPU graphs have fixed lengths (`NPU_LENGTHS`). A `Policy` says how the NPU meets another length:

    padding   up to the next one
    pipe      the largest that fits, then the rest in the same way, one after the other
    online    a graph of exactly this length is compiled first, at `online_compile_us`
    plan      the cheapest of padding, pipe and both mixed, operator by operator, and rows may be
              cut, with the GPU taking the remainder

A cut product of several rows is stored transposed, so that both parts are contiguous: nothing is
gathered. Attention on the GPU computes only what the causal mask leaves; an NPU graph is static
and computes all of it. Activations are float16.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, get_args

from hetero_tvm.steps import Load
from relay_passes.planner.problem import Choice, Cut, Kind, Op, Problem, Waiting
from schedules.cost_model import CostModel
from target_specs.llm import LlmSpec

Policy = Literal["plan", "padding", "online", "pipe"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
# HeteroLLM / HeteroInfer, arXiv 2501.14794: graphs are built ahead of time for powers of two.
NPU_LENGTHS = (32, 64, 128, 256, 512, 1024)
_BYTES = 2  # of one activation
_SHARES = 16  # a weight may be cut at every sixteenth of its columns
_TILE = 32  # columns of the NPU's matrix unit; a part of another width would be padded
# Of each chain's. Six instead of three: prefill 0.6 to 1.5 % faster, decode at most 0.2 %, for
# Llama-3-8B and InternLM2-1.8B at 256 and 300 tokens on Snapdragon 8 Gen 3 (simulated).
_CUTS_KEPT = 3
_CHAINS: tuple[tuple[tuple[str, ...], int], ...] = (  # operators, the axis they are cut along
    (("qkv", "rope", "attention"), 1),
    (("output",), 1),
    (("gate/up", "swiglu"), 1),
    (("down",), 1),
    (("norm", "qkv", "rope", "attention", "output", "gate/up", "swiglu", "down"), 0),
)
_DEVICES: tuple[str, ...] = ("gpu", "npu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """A pass through the model, as the planner is asked for it."""

    problem: Problem
    names: tuple[str, ...]
    loads: tuple[tuple[Mapping[str, Load], ...], ...]  # operator, choice -> device -> its part

    def only(self, keep: Iterable[str]) -> Graph:
        """The same with the choices of these devices only: `gpu`, `npu`, `gpu+npu`."""
        allowed = set(keep)
        picked = [
            [number for number, choice in enumerate(op.choices) if choice.device in allowed]
            for op in self.problem.ops
        ]
        ops = tuple(
            dataclasses.replace(op, choices=tuple(op.choices[number] for number in numbers))
            for op, numbers in zip(self.problem.ops, picked, strict=True)
        )
        loads = tuple(
            tuple(load[number] for number in numbers)
            for load, numbers in zip(self.loads, picked, strict=True)
        )
        return Graph(
            problem=dataclasses.replace(self.problem, ops=ops), names=self.names, loads=loads
        )


def online_compile_us(length: int) -> float:
    """What compiling the NPU's graphs for one more length takes at run time.

    An estimate: a line derived from figures in HeteroLLM (arXiv 2501.14794), which prints none.
    """
    return 38_000.0 + 470.0 * length


def npu_lengths(rows: int, policy: Policy) -> list[tuple[int, ...]]:
    """The ways to run `rows` rows on the NPU: lengths of graphs, one after the other."""
    if rows == 1:
        return [(1,)]  # decoding has a graph of its own
    if policy == "online":
        return [(rows,)]
    most = NPU_LENGTHS[-1]
    full = (most,) * (rows // most)
    ways = [(*full, *way) for way in _ways(rows % most)]
    if policy == "padding":
        return ways[:1]
    return ways[-1:] if policy == "pipe" else ways


def _ways(rows: int) -> Iterator[tuple[int, ...]]:
    """Of fewer rows than the longest graph has. Padding first, the whole pipe last."""
    if rows == 0:
        yield ()
        return
    yield (next(length for length in NPU_LENGTHS if length >= rows),)
    below = [length for length in NPU_LENGTHS if length <= rows]
    if rows in NPU_LENGTHS or not below:
        return
    for rest in _ways(rows - below[-1]):
        yield (below[-1], *rest)


def build(
    llm: LlmSpec,
    costs: CostModel,
    waiting: Waiting,
    *,
    rows: int,
    past: int,
    policy: Policy = "plan",
) -> Graph:
    """One pass: `rows` tokens at once, with `past` tokens before them in the cache.

    Only the last row goes through lm_head.
    """
    return _Builder(llm, costs, rows, past, policy).build(waiting)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Work:
    """An operator, or a part of one, as the cost model reads it."""

    kind: str = "vector"
    name: str = ""
    macs: int = 0
    bytes: int = 0
    weight_bytes: int = 0
    cache_bytes: int = 0
    score_bytes: int = 0
    output_bytes: int = 0
    element_bytes: int = _BYTES
    rows: int = 1
    depth: int = 1
    columns: int = 1
    fuses: bool = False
    reduces: bool = False


@dataclasses.dataclass(frozen=True)
class _Part:
    """One device's part of an operator."""

    alone_us: float
    both_us: float  # while the other device is at work too
    nbytes: float  # from and to memory


_Way = tuple[Choice, Mapping[str, Load]]
_Ways = list[_Way]
_Once = Callable[[int, bool], float]  # rows, both devices at work -> µs
_Bytes = Callable[[int], float]  # rows -> bytes from and to memory


class _Builder:
    def __init__(
        self, llm: LlmSpec, costs: CostModel, rows: int, past: int, policy: Policy
    ) -> None:
        self.llm, self.costs, self.rows, self.past, self.policy = llm, costs, rows, past, policy
        self.ops: list[Op] = []
        self.names: list[str] = []
        self.loads: list[tuple[Mapping[str, Load], ...]] = []
        self.row_cuts: list[Cut] = []

    def build(self, waiting: Waiting) -> Graph:
        llm = self.llm
        embedding = self._vector(0, llm.hidden, reads=1)
        x = self._add("embedding", [], embedding, llm.hidden)
        ways = self._layer_ways()
        if self.policy == "plan" and self.rows > 1:
            self.row_cuts = _row_cuts(self.rows)
            ways = self._layer_ways()
        _keep_balanced(ways)
        for layer in range(llm.layers):
            x = self._layer(f"layer {layer}", ways, x)
        self.row_cuts, self.rows = [], 1  # the last row alone
        norm = self._add("final norm", [x], self._norm(), llm.hidden)
        logits = self._product(llm.hidden, llm.vocabulary, inputs=1, extent=llm.vocabulary)
        self._add("lm_head", [norm], logits, llm.vocabulary)
        self.ops[-1] = dataclasses.replace(self.ops[-1], is_output=True)
        self.ops[0] = dataclasses.replace(self.ops[0], reads_graph_inputs=True)
        return Graph(
            problem=Problem(ops=tuple(self.ops), waiting=waiting),
            names=tuple(self.names),
            loads=tuple(self.loads),
        )

    def _layer_ways(self) -> dict[str, _Ways]:
        """All layers are alike."""
        llm = self.llm
        hidden, heads, qkv = llm.hidden, llm.kv_heads, llm.query_columns + 2 * llm.key_columns
        return {
            "norm": self._norm(),
            "qkv": self._product(hidden, qkv, inputs=1, extent=heads),
            "rope": self._vector(1, qkv, reads=1, extent=heads),
            "attention": self._attention(),
            "output": self._product(llm.query_columns, hidden, inputs=2, extent=hidden),
            "gate/up": self._product(hidden, 2 * llm.ffn, inputs=1, extent=llm.ffn),
            "swiglu": self._vector(1, llm.ffn, reads=2, extent=llm.ffn),
            "down": self._product(llm.ffn, hidden, inputs=2, extent=hidden),
        }

    def _layer(self, where: str, ways: Mapping[str, _Ways], x: int) -> int:
        llm = self.llm

        def add(name: str, inputs: list[int], columns: int) -> int:
            return self._add(f"{where} {name}", inputs, ways[name.split()[0]], columns)

        qkv = llm.query_columns + 2 * llm.key_columns
        y = add("qkv", [add("norm 1", [x], llm.hidden)], qkv)
        y = add("attention", [add("rope", [y], qkv)], llm.query_columns)
        x = add("output", [y, x], llm.hidden)
        y = add("gate/up", [add("norm 2", [x], llm.hidden)], 2 * llm.ffn)
        y = add("swiglu", [y], llm.ffn)
        return add("down", [y, x], llm.hidden)

    def _add(self, name: str, inputs: list[int], ways: _Ways, columns: int) -> int:
        self.ops.append(
            Op(
                choices=tuple(choice for choice, _ in ways),
                inputs=tuple(inputs),
                nbytes=self.rows * columns * _BYTES,
            )
        )
        self.loads.append(tuple(loads for _, loads in ways))
        self.names.append(name)
        return len(self.ops) - 1

    # The ways to run an operator.

    def _product(self, depth: int, columns: int, *, inputs: int, extent: int) -> _Ways:
        """`[rows, depth] x [depth, columns]`; of two inputs the second is the residual."""
        part = functools.partial(self._product_part, depth=depth, residual=inputs == 2)
        ways = [self._single(d, part(d, self.rows, columns), inputs) for d in _DEVICES]
        for at in _column_cuts(columns, extent):
            cut = Cut(1, at, extent)
            kind: Kind = "weight" if self.rows in (1, *NPU_LENGTHS) else "hybrid"
            reads = (None, cut) if inputs == 2 else (None,)
            mine = columns * at // extent
            shares = {"npu": mine, "gpu": columns - mine}
            ways.append(
                _split({d: part(d, self.rows, shares[d]) for d in shares}, reads, cut, kind)
            )
        for cut in self.row_cuts:
            parts = {d: part(d, _rows_of(cut, d), columns) for d in _DEVICES}
            ways.append(_split(parts, (cut,) * inputs, cut, "activation"))
        return ways

    def _product_part(
        self, device: str, rows: int, columns: int, *, depth: int, residual: bool
    ) -> _Part:
        bits = self.llm.weight_bits
        weight = depth * columns * bits // 8
        added = _Work(
            bytes=3 * rows * columns * _BYTES,
            output_bytes=rows * columns * _BYTES,
            fuses=True,
        )

        def once(length: int, both: bool) -> float:
            us = self.costs.product_us(device, length, depth, columns, weight_bits=bits, both=both)
            return us + (self.costs.cost_us(added, device, both=both) if residual else 0.0)

        if device == "npu":
            return self._npu_part(rows, once, lambda length: weight)
        activations = rows * (depth + columns * (2 if residual else 1)) * _BYTES
        return _Part(once(rows, False), once(rows, True), weight + activations)

    def _norm(self) -> _Ways:
        return self._vector(1, self.llm.hidden, reads=1, reduces=True)

    def _vector(
        self, inputs: int, columns: int, *, reads: int, reduces: bool = False, extent: int = 0
    ) -> _Ways:
        """Element by element, or row by row: `reads` elements in for each one out."""

        def part(device: str, rows: int, columns: int) -> _Part:
            def nbytes(length: int) -> int:
                return length * columns * (reads + 1) * _BYTES

            def once(length: int, both: bool) -> float:
                work = _Work(
                    bytes=nbytes(length),
                    output_bytes=length * columns * _BYTES,
                    reduces=reduces,
                    rows=length,
                )
                return self.costs.cost_us(work, device, both=both)

            if device == "npu":
                return self._npu_part(rows, once, lambda length: 0)
            return _Part(once(rows, False), once(rows, True), nbytes(rows))

        ways = [self._single(d, part(d, self.rows, columns), inputs) for d in _DEVICES]
        for at in _column_cuts(columns, extent) if extent else ():
            cut, mine = Cut(1, at, extent), columns * at // extent
            parts = {"npu": part("npu", self.rows, mine)}
            parts["gpu"] = part("gpu", self.rows, columns - mine)
            ways.append(_split(parts, (cut,) * inputs, cut, "weight"))
        for cut in self.row_cuts:
            parts = {d: part(d, _rows_of(cut, d), columns) for d in _DEVICES}
            ways.append(_split(parts, (cut,) * inputs, cut, "activation"))
        return ways

    def _attention(self) -> _Ways:
        """Scores, softmax, values: reads the cache of all tokens before."""
        llm, heads = self.llm, self.llm.kv_heads
        ways = [self._single(d, self._attention_part(d, self.rows, heads), 1) for d in _DEVICES]
        for at in _column_cuts(llm.query_columns, heads):
            cut = Cut(1, at, heads)
            shares = {"npu": at, "gpu": heads - at}
            parts = {d: self._attention_part(d, self.rows, shares[d]) for d in shares}
            ways.append(_split(parts, (cut,), cut, "weight"))
        for cut in self.row_cuts:
            parts = {d: self._attention_part(d, _rows_of(cut, d), heads) for d in _DEVICES}
            ways.append(_split(parts, (None,), cut, "activation"))
        return ways

    def _attention_part(self, device: str, rows: int, groups: int) -> _Part:
        """Of `groups` key heads and the queries that belong to them."""
        llm, context = self.llm, self.past + self.rows
        queries = groups * llm.heads // llm.kv_heads
        cache = 2 * context * groups * llm.head_dim * _BYTES

        def once(length: int, both: bool) -> float:
            seen = length * context
            if device == "gpu":  # the rows are the last ones
                seen = length * (context - length) + length * (length + 1) // 2
            io = 2 * length * queries * llm.head_dim * _BYTES
            products = _Work(
                kind="batched_matmul",
                macs=2 * seen * queries * llm.head_dim,
                bytes=cache + io,
                weight_bytes=cache,
                output_bytes=io // 2,
                rows=length * llm.heads // llm.kv_heads,  # queries of a group share their keys
                depth=llm.head_dim,
                columns=context,
            )
            us = self.costs.cost_us(products, device, both=both)
            if device == "npu":  # on the GPU it never leaves the kernel
                scores = 2 * seen * queries * _BYTES
                softmax = _Work(bytes=scores, output_bytes=scores // 2, reduces=True, rows=length)
                us += self.costs.cost_us(softmax, device, both=both)
            return us

        if device == "npu":
            return self._npu_part(rows, once, lambda length: cache)
        io = 2 * rows * queries * llm.head_dim * _BYTES
        return _Part(once(rows, False), once(rows, True), cache + io)

    def _npu_part(self, rows: int, once: _Once, nbytes: _Bytes) -> _Part:
        """The cheapest way that the policy allows; every graph reads its weights again."""
        ways = [Counter(lengths) for lengths in npu_lengths(rows, self.policy)]

        def total(way: Mapping[int, int], both: bool) -> float:
            return sum(count * once(length, both) for length, count in way.items())

        way = min(ways, key=lambda way: total(way, False))
        moved = sum(count * nbytes(length) for length, count in way.items())
        return _Part(total(way, False), total(way, True), moved)

    def _single(self, device: str, part: _Part, inputs: int) -> _Way:
        choice = Choice(us={device: part.alone_us}, reads=(None,) * inputs)
        return choice, {device: Load(part.alone_us, part.nbytes)}


def _keep_balanced(ways: Mapping[str, _Ways]) -> None:
    """Of the cuts that a chain of operators can share, keep those that end soonest all together.

    A cut that one operator would like and the rest of its chain would not is no great loss; the
    planner's time grows with every one of them.
    """
    for chain, axis in _CHAINS:
        together: dict[Cut, dict[str, float]] = {}
        for name in chain:
            for choice, _ in ways[name]:
                if choice.makes is not None and choice.makes.axis == axis:
                    sums = together.setdefault(choice.makes, {"gpu": 0.0, "npu": 0.0})
                    for device, us in choice.us.items():
                        sums[device] += us
        best = sorted(together, key=lambda cut: max(together[cut].values()))[:_CUTS_KEPT]
        for name in chain:
            ways[name][:] = [
                (choice, loads)
                for choice, loads in ways[name]
                if choice.makes is None or choice.makes.axis != axis or choice.makes in best
            ]


def _row_cuts(rows: int) -> list[Cut]:
    """Where rows may be cut: the NPU's share is one of its lengths, or two of them."""
    shares = {*NPU_LENGTHS, *(a + b for a in NPU_LENGTHS for b in NPU_LENGTHS if a > b)}
    return [Cut(0, at, rows) for at in sorted(shares) if at < rows]


def _column_cuts(columns: int, extent: int) -> list[int]:
    """Where `extent` units, `columns` columns in all, may be cut."""
    step = 1 if columns // extent >= _TILE else _TILE
    cuts = {round(extent * share / _SHARES / step) * step for share in range(1, _SHARES)}
    return sorted(at for at in cuts if 0 < at < extent)


def _rows_of(cut: Cut, device: str) -> int:
    low, high = cut.of(device)
    return high - low


def _split(
    parts: Mapping[str, _Part], reads: tuple[Cut | None, ...], makes: Cut, kind: Kind
) -> _Way:
    choice = Choice(
        us={device: part.both_us for device, part in parts.items()},
        reads=reads,
        makes=makes,
        kind=kind,
    )
    return choice, {device: Load(part.alone_us, part.nbytes) for device, part in parts.items()}
