"""Attention with a cache in float64 numpy: what every lowering is compared with."""

from __future__ import annotations

import numpy as np


def attention(
    q: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    past: int,
    *,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
) -> np.ndarray:
    """As `hetero.attention` says: q [B, Hq, S, D] on caches [B, Hkv, C, D] -> [B, S, Hq * Dv]."""
    batch, heads, length, _ = q.shape
    group = heads // keys.shape[1]
    keys, values = (np.repeat(x.astype(np.float64), group, axis=1) for x in (keys, values))
    scores = scale * q.astype(np.float64) @ keys.transpose(0, 1, 3, 2)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    place = past + np.arange(length)[:, None]
    j = np.arange(keys.shape[2])[None, :]
    seen = j <= place
    if window:
        seen &= j > place - window
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = np.where(seen.any(axis=0)[:, None], values, 0.0)  # what nobody sees may be anything
    return (weights @ mixed).transpose(0, 2, 1, 3).reshape(batch, length, -1)
