"""Sums of 16-bit numbers times codes of 4 or 8 bits, two products at a time, in integers.

    add_codes(sum, word, x0, x1, x2, x3)      sum + the eight codes of `word` times eight numbers
    add_codes(sum, word, x0, x1)              sum + the four codes of `word` times four numbers

An x holds a pair of numbers, and half-words of `word` hold what they are multiplied with:

    x_j    = number [j] in the low half, number [j + 16] in the high half
    word   = code [j] in bits b j,       code [j + 16] in bits b j + 16      codes of b bits

so a word is masked and shifted 16 / b times, where each of its codes would become a float. CPUs
multiply and add such pairs in one instruction (x86: `vpmaddwd`, `vpdpwssd`), which Clang's vector
types lead to and plain vectors of OpenCL C do not: an Intel driver computes 1536 x 1536, 4 bits, in
22 us so, and in 60 us by floats (one Zen 5 core).

The operators, one for each width of a code, are as TVM's primitive ones, vectorised as their
arithmetic is. For OpenCL they become functions that `with_code_pairs` puts before the source;
anywhere else plain arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tvm import ir, tirx
from tvm.ir.prim.expr import Broadcast, Ramp
from tvm.tirx.op import register_intrin_lowering

_HALF = 16  # bits of half a word
_WIDTHS = (4, 8)
_OPERATORS = {bits: f"tirx.hetero_add_codes_of_{bits}" for bits in _WIDTHS}
_FUNCTION_NAME = "hetero_add_codes"
_PURE = 1  # TVM's CallEffectKind
_LANES = (2, 4, 8, 16)
_CALLED = re.compile(rf"\b{_FUNCTION_NAME}({'|'.join(map(str, _LANES))})_of_([48])\(")
# How far ahead of what is read: each strip of columns is a stream, too short for a CPU to see it
# coming. Weights from memory then arrive at 29 GB/s in place of 24 (two Zen 5 cores).
_PREFETCH_BYTES = 4096

_PAIRS_FUNCTION = """\
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
"""
_FUNCTION = """\
int{lanes} {name}{lanes}_of_{bits}(
    int{lanes} sum, const __global uint* words, uint ahead, {parameters}) {{
#ifdef __clang__
  if (ahead) __builtin_prefetch(words + ahead);
#endif
  const uint{lanes} word = vload{lanes}(0, words);
{steps}
  return sum;
}}
"""
_STEP = "  sum = hetero_add_pairs{lanes}(sum, (word >> {shift}) & {mask}u, x{j});"


def pairs_per_word(bits: int) -> int:
    """Pairs of codes of so many bits in a word."""
    return _HALF // bits


def add_codes(
    total: tirx.Expr, word: tirx.Expr, pairs: Sequence[tirx.Expr], *, once: bool
) -> tirx.Expr:
    """`total` (int32) and the products of the codes in `word` with uint32 of two numbers each.

    `pairs`: four where a code has 4 bits, two where it has 8. `once`: nothing else reads the word,
    which then comes from memory.
    """
    ahead = tirx.const(_PREFETCH_BYTES // 4 if once else 0, "uint32")
    return tirx.call_intrin("int32", _OPERATORS[_HALF // len(pairs)], total, word, ahead, *pairs)


def pairs_function(lanes: int) -> str:
    """OpenCL C of `hetero_add_pairs<lanes>(sum, codes, x)`, which adds up products of pairs."""
    return _PAIRS_FUNCTION.format(
        lanes=lanes,
        twice=2 * lanes,
        even=", ".join(str(2 * n) for n in range(lanes)),
        odd=", ".join(str(2 * n + 1) for n in range(lanes)),
    )


def with_code_pairs(source: str) -> str:
    """`source` after the functions of this file that it calls."""
    called = sorted({(int(lanes), int(bits)) for lanes, bits in _CALLED.findall(source)})
    functions = [pairs_function(lanes) for lanes in dict.fromkeys(lanes for lanes, _ in called)]
    for lanes, bits in called:
        pairs = range(pairs_per_word(bits))
        mask = hex(((1 << bits) - 1) * 0x00010001)  # a code in each half
        steps = (_STEP.format(lanes=lanes, shift=bits * j, mask=mask, j=j) for j in pairs)
        functions.append(
            _FUNCTION.format(
                name=_FUNCTION_NAME,
                lanes=lanes,
                bits=bits,
                parameters=", ".join(f"uint x{j}" for j in pairs),
                steps="\n".join(steps),
            )
        )
    return "".join([*functions, source])


def _as_function(call: ir.Call) -> tirx.Expr:
    total, word, ahead, *pairs = call.args
    lanes = int(str(call.ty).partition("x")[2] or 1)
    if not (lanes in _LANES and _is_run(word) and all(isinstance(x, Broadcast) for x in pairs)):
        return _as_arithmetic(call)
    words = tirx.address_of(tirx.BufferLoad(word.source, [word.indices[0].base]))
    scalars = [x.value if isinstance(x, Broadcast) else x for x in (ahead, *pairs)]
    name = f"{_FUNCTION_NAME}{lanes}_of_{_HALF // len(pairs)}"
    return tirx.call_pure_extern(str(call.ty), name, total, words, *scalars)


def _is_run(words: tirx.Expr) -> bool:
    """Whether they lie side by side in memory."""
    index = words.indices[0] if isinstance(words, ir.TensorLoad) else None
    return (
        isinstance(index, Ramp) and isinstance(index.stride, tirx.IntImm) and int(index.stride) == 1
    )


def _as_arithmetic(call: ir.Call) -> tirx.Expr:
    total, word, _ahead, *pairs = call.args
    signed, plain = str(call.ty), str(word.ty)
    half, bits = tirx.const(_HALF, plain), _HALF // len(pairs)
    mask = tirx.const((1 << bits) - 1, plain)
    for j, x in enumerate(pairs):
        shifted = tirx.shift_right(word, tirx.const(bits * j, plain))
        for part in (shifted, tirx.shift_right(shifted, half)):
            code = tirx.bitwise_and(part, mask).astype(signed)
            low = part is shifted
            number = (tirx.shift_left(x, half) if low else x).astype(signed)
            total = total + code * tirx.shift_right(number, tirx.const(_HALF, signed))
    return total


for _bits, _operator in _OPERATORS.items():
    ir.register_op_attr(_operator, "TVectorizable", True)
    ir.register_op_attr(_operator, "TCallEffectKind", _PURE)
    ir.register_op_attr(_operator, "TScriptPrinterName", _operator.removeprefix("tirx."))
    ir.Op.get(_operator).set_num_inputs(3 + pairs_per_word(_bits))
    register_intrin_lowering(_operator, target="opencl", f=_as_function)
    register_intrin_lowering(_operator, target="default", f=_as_arithmetic)
