"""Sums of 16-bit numbers times 4-bit codes: two products at a time, by integer multiply-add.

    add_codes(sum, word, x0, x1, x2, x3)      sum + the eight codes of `word` times eight numbers

An x holds a pair of numbers, and half-words of `word` hold what they are multiplied with:

    x_j    = number [j] in the low half, number [j + 16] in the high half
    word   = code [j] in bits 4 j,       code [j + 16] in bits 4 j + 16            j = 0 .. 3

so a word is masked and shifted four times, where each of its codes would become a float of its own.
CPUs multiply and add such pairs in one instruction (x86: `vpmaddwd`, `vpdpwssd`), which Clang's
vector types lead to and plain vectors of OpenCL C do not: an Intel driver computes 1536 x 1536 in
22 us so, and in 60 us by floats (one Zen 5 core).

The operator is one of TVM's primitive ones, vectorised as its arithmetic is. For OpenCL it becomes
a function that `with_code_pairs` puts before the source; anywhere else plain arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tvm import ir, tirx
from tvm.ir.prim.expr import Broadcast, Ramp
from tvm.tirx.op import register_intrin_lowering

PAIRS_PER_WORD = 4
_OPERATOR = "tirx.hetero_add_codes"
_FUNCTION_NAME = "hetero_add_codes"
_PURE = 1  # TVM's CallEffectKind
_LANES = (2, 4, 8, 16)
_CALLED = re.compile(rf"\b{_FUNCTION_NAME}({'|'.join(map(str, _LANES))})\(")
_MASK = 0x000F000F  # a code in each half
# How far ahead of what is read: each strip of columns is a stream, too short for a CPU to see it
# coming. Weights from memory then arrive at 29 GB/s in place of 24 (two Zen 5 cores).
_PREFETCH_BYTES = 4096

_FUNCTION = """\
#ifdef __clang__
typedef short hetero_short{twice} __attribute__((ext_vector_type({twice})));
typedef int hetero_int{twice} __attribute__((ext_vector_type({twice})));
#endif
int{lanes} hetero_add_pairs{lanes}(int{lanes} sum, uint{lanes} codes, uint x) {{
#ifdef __clang__
  const hetero_int{twice} products =
      __builtin_convertvector(__builtin_astype(codes, hetero_short{twice}), hetero_int{twice}) *
      __builtin_convertvector(__builtin_astype((uint{lanes})(x), hetero_short{twice}),
                              hetero_int{twice});
  return sum + (__builtin_shufflevector(products, products, {even}) +
                __builtin_shufflevector(products, products, {odd}));
#else
  return sum + as_int{lanes}(codes & 0xFFFF) * (int)as_short2(x).x +
         as_int{lanes}(codes >> 16) * (int)as_short2(x).y;
#endif
}}
int{lanes} {name}{lanes}(
    int{lanes} sum, const __global uint* words, uint ahead, uint x0, uint x1, uint x2, uint x3) {{
#ifdef __clang__
  if (ahead) __builtin_prefetch(words + ahead);
#endif
  const uint{lanes} word = vload{lanes}(0, words);
  sum = hetero_add_pairs{lanes}(sum, word & {mask}u, x0);
  sum = hetero_add_pairs{lanes}(sum, (word >> 4) & {mask}u, x1);
  sum = hetero_add_pairs{lanes}(sum, (word >> 8) & {mask}u, x2);
  return hetero_add_pairs{lanes}(sum, (word >> 12) & {mask}u, x3);
}}
"""


def add_codes(
    total: tirx.Expr, word: tirx.Expr, pairs: Sequence[tirx.Expr], *, once: bool
) -> tirx.Expr:
    """`total` (int32) and the products of the codes in `word` with four uint32 of two numbers.

    `once`: nothing else reads the word, which then comes from memory.
    """
    ahead = tirx.const(_PREFETCH_BYTES // 4 if once else 0, "uint32")
    return tirx.call_intrin("int32", _OPERATOR, total, word, ahead, *pairs)


def with_code_pairs(source: str) -> str:
    """`source` after the functions of this file that it calls."""
    called = sorted({int(lanes) for lanes in _CALLED.findall(source)})
    functions = (
        _FUNCTION.format(
            name=_FUNCTION_NAME,
            lanes=lanes,
            twice=2 * lanes,
            even=", ".join(str(2 * n) for n in range(lanes)),
            odd=", ".join(str(2 * n + 1) for n in range(lanes)),
            mask=hex(_MASK),
        )
        for lanes in called
    )
    return "".join([*functions, source])


def _as_function(call: ir.Call) -> tirx.Expr:
    total, word, ahead, *pairs = call.args
    lanes = int(str(call.ty).partition("x")[2] or 1)
    if not (lanes in _LANES and _is_run(word) and all(isinstance(x, Broadcast) for x in pairs)):
        return _as_arithmetic(call)
    words = tirx.address_of(tirx.BufferLoad(word.source, [word.indices[0].base]))
    scalars = [x.value if isinstance(x, Broadcast) else x for x in (ahead, *pairs)]
    return tirx.call_pure_extern(str(call.ty), f"{_FUNCTION_NAME}{lanes}", total, words, *scalars)


def _is_run(words: tirx.Expr) -> bool:
    """Whether they lie side by side in memory."""
    index = words.indices[0] if isinstance(words, ir.TensorLoad) else None
    return (
        isinstance(index, Ramp) and isinstance(index.stride, tirx.IntImm) and int(index.stride) == 1
    )


def _as_arithmetic(call: ir.Call) -> tirx.Expr:
    total, word, _ahead, *pairs = call.args
    signed, plain = str(call.ty), str(word.ty)
    sixteen = tirx.const(16, plain)
    for j, x in enumerate(pairs):
        shifted = tirx.shift_right(word, tirx.const(4 * j, plain))
        for half in (shifted, tirx.shift_right(shifted, sixteen)):
            code = tirx.bitwise_and(half, tirx.const(0xF, plain)).astype(signed)
            low = half is shifted
            number = (tirx.shift_left(x, sixteen) if low else x).astype(signed)
            total = total + code * tirx.shift_right(number, tirx.const(16, signed))
    return total


ir.register_op_attr(_OPERATOR, "TVectorizable", True)
ir.register_op_attr(_OPERATOR, "TCallEffectKind", _PURE)
ir.register_op_attr(_OPERATOR, "TScriptPrinterName", "hetero_add_codes")
ir.Op.get(_OPERATOR).set_num_inputs(3 + PAIRS_PER_WORD)
register_intrin_lowering(_OPERATOR, target="opencl", f=_as_function)
register_intrin_lowering(_OPERATOR, target="default", f=_as_arithmetic)
