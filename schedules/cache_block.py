"""Blocks of register tiles, for matrix products whose weight no cache holds.

A core that computes one tile after another reads all of the weight for each tile of rows. Past the
second-level cache it then waits for memory: on one Zen 5 core [M, 4096] x [4096, 4096] runs at
80-95 GFLOP/s instead of 200. So a work-item there computes a block of tiles:

    rows     all tiles of a block read a panel while it is in a cache
    depth    a stretch of the panel at a time, which the first-level cache holds; the sums of the
             block lie in the second-level cache meanwhile
    panels   the same stretch of the left side serves several panels

The figures below are the fastest of those tried on that core (48 KiB and 1 MiB of cache); they
hardly matter between half and twice as much.
"""

from __future__ import annotations

import dataclasses

from schedules.register_tile import RegisterTile
from target_specs.spec import GpuSpec

# A weight below this stays in a second-level cache by itself.
_MIN_WEIGHT_BYTES = 1 << 20
# At this depth a panel of 32 columns stays there, and reading it whole is fastest.
_MAX_WHOLE_DEPTH = 1024
_STRETCH = (128, 512)  # the shortest that pays for fetching the sums; the longest for the cache
_BLOCK_ROWS = 16  # tiles
_BLOCK_PANELS = 4
# Work-groups that must be left to share among cores.
_MIN_GROUPS = 16


def blocked(
    gpu: GpuSpec, tile: RegisterTile, shape: tuple[int, int, int], depth: int
) -> RegisterTile:
    """`tile` with the block that suits a result of `shape` (batch, rows, columns).

    Where work-items run in lockstep there is none.
    """
    batch, rows, columns = shape
    tiles, panels = -(-rows // tile.rows), -(-columns // tile.panel)
    is_small = depth * columns * 4 <= _MIN_WEIGHT_BYTES
    if gpu.wave_size > 1 or tiles == 1 or is_small:
        return tile

    def groups(block_rows: int, block_panels: int = 1) -> int:
        return batch * -(-tiles // block_rows) * (panels // block_panels)

    # The fewest blocks of equal size, so that hardly a tile is computed in vain.
    block_rows = -(-tiles // -(-tiles // _BLOCK_ROWS))
    while block_rows > 1 and groups(block_rows) < _MIN_GROUPS:
        block_rows = -(-block_rows // 2)
    tile = dataclasses.replace(tile, block_rows=block_rows)
    stretch = _largest_divisor(depth, _STRETCH[1])
    if depth <= _MAX_WHOLE_DEPTH or stretch < _STRETCH[0] or block_rows == 1:
        return tile
    fitting = [n for n in range(1, _BLOCK_PANELS + 1) if panels % n == 0]
    block_panels = max(n for n in fitting if n == 1 or groups(block_rows, n) >= _MIN_GROUPS)
    return dataclasses.replace(tile, block_panels=block_panels, block_depth=stretch)


def _largest_divisor(value: int, limit: int) -> int:
    return max(n for n in range(1, min(value, limit) + 1) if value % n == 0)
