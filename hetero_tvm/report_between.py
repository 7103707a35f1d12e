"""What was chosen for a range of lengths, as text."""

from __future__ import annotations

import textwrap

from hetero_tvm.between import MOST, Between, Chosen

_WIDTH = 100


def table(chosen: Chosen) -> str:
    """One row for each standard and for each length that was tried between two of them."""
    titles = f"{'length':>8}{'own plan':>14}{'filled up':>14}{'cut':>14}{'saves':>8}"
    lines = [f"{titles}  what its own plan is"]
    between = {one.length: one for one in chosen.between}
    for length in sorted([*chosen.plans, *between]):
        if length in between:
            lines.append(_row(between[length]))
        else:
            lines.append(f"{length:>8}{_ms(chosen.plans[length].predicted_us)}{'':>36}  standard")
    shown = ", ".join(map(str, chosen.built))
    lines += textwrap.wrap(
        f"Variants for {chosen.span}: {shown}. A length between two standards gets one where the "
        f"NPU can do the rows that it has graphs for, and the GPU the rest, in {chosen.gain:.0%} "
        f"less than to fill up or to cut takes, at most {MOST} of them. All times are predicted.",
        _WIDTH,
    )
    return "\n".join(lines)


def _row(one: Between) -> str:
    cut = _ms(one.chunking_us) if one.chunking_us is not None else f"{'-':>14}"
    kind = {"gpu": "GPU alone"}.get(one.kind, f"{one.kind} split")
    verdict = f"{kind}, built" if one.built else f"{kind}; instead {one.way}"
    return (
        f"{one.length:>8}{_ms(one.split_us)}{_ms(one.padding_us)}{cut}{one.saves:>8.1%}  {verdict}"
    )


def _ms(us: float) -> str:
    return f"{us / 1e3:>11.3f} ms"
