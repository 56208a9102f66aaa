"""Sums of many sources' fringes on a baseline: sixteen sources at a time, side by side.

No kernel here may contract or reorder: how a compiler treats a sum depends on what it has inlined, which depends on
whether code is freshly compiled or from numba's cache. Tables would differ in the seventh digit from one process to the
next. So sources are summed in separate lanes, which compilers may process together without changing a bit.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

LANES = 16
NODES_TOGETHER = 4
"""Nodes processed together: sums that wait for one another cost more than these."""
_WIDE = NODES_TOGETHER * LANES
_ROWS = tuple(np.uint64(row * _WIDE) for row in range(8))
_HEAPS = 32
RUN = 64
"""Number of nodes after which phases, advanced in single precision, are restarted from double precision; a power of two."""
MOST_TURN = 1 / 8
"""Maximum turns from node to node: the interpolation is then good to 4e-6 of the flux."""
OUTSIDE = 6
"""Nodes before the band in all grids but the finest, for the interpolation; twice three (predict._phasors)."""
_CUBIC_TURNS = 0.7
"""Up to this many turns sin(pi x) / (pi x) is a cubic of x^2 to 2e-6 over a band of 20 %."""
_SLOW_TURNS = 0.1
_SHORT_TURNS = 0.14


@njit(cache=True, parallel=True)
def accumulate(  # type: ignore[no-untyped-def]
    one, other, turns, first, step, block, turns_band, turns_per_hz, spectra, squares, frequencies_hz, sizes, bounds, halfway, places,
    models,
):  # fmt: skip
    """Compute model visibilities (model, baseline, channel) of the baselines from antenna `one` to `other`.

    By antenna and source (antenna, group, lane): `turns` per channel, turns across a channel, and turns per Hz over the
    integration. `first`, `step`, `block` (grid, part, antenna, group, lane): phasors at a grid's first node, from node
    to node, and over RUN nodes. `spectra` (group, node x lane); `squares` (node x lane): (nu / middle)^2 - 1. Grids
    have a multiple of NODES_TOGETHER nodes. With a single model, it is the sum of all sources; otherwise model
    `places[source]` is that source's.
    """
    n_nodes, together = frequencies_hz.size, models.shape[0] == 1
    # heaps take baselines in turn, whatever the number of threads: long ones, which are adjacent, cost most
    for heap in prange(_HEAPS):
        x, y = np.empty(n_nodes, np.float32), np.empty(n_nodes, np.float32)
        sums = np.empty(2 * n_nodes * LANES, np.float32)
        phase, state = np.empty(8 * LANES), np.empty(8 * _WIDE, np.float32)
        grids = np.empty(spectra.shape[0], np.int64)
        for row in range(heap, one.size, _HEAPS):
            i, j = one[row], other[row]
            coarsest = _grids(turns, i, j, sizes.size, grids)
            for k in range(n_nodes):
                x[k] = 0
            for k in range(n_nodes):
                y[k] = 0
            for grid in range(coarsest + 1):
                low, size, any_group = bounds[grid], bounds[grid + 1] - bounds[grid], False
                for g in range(grids.size):
                    if grids[g] != grid:
                        continue
                    if not (any_group and together):
                        for k in range(2 * size * LANES):
                            sums[k] = 0
                    any_group = True
                    _start(first, step, block, i, j, g, grid, phase, state)
                    if _smear(turns_band, turns_per_hz, i, j, g, frequencies_hz[models.shape[2] // 2], phase, state):
                        _add_group(spectra, squares, low, size, g, phase, state, sums)
                    else:
                        _add_smeared(spectra, frequencies_hz, low, size, g, phase, state, sums)
                    if not together:
                        _put_each(sums, x, y, grid, g, bounds, sizes, halfway, places, models, row)
                if any_group and together:
                    for k in range(size):
                        at = _place(k)
                        x[low + k], y[low + k] = _across(sums, at), _across(sums, at + _WIDE)
            if together:
                _put(x, y, coarsest, bounds, sizes, halfway, models, 0, row)


@njit(cache=True)
def _grids(turns, i, j, n_grids, grids):  # type: ignore[no-untyped-def]
    """Find for every group the coarsest grid that follows all of its fringes; return the coarsest of these."""
    coarsest = 0
    for g in range(grids.size):
        most, grid = 0.0, 0
        for lane in range(LANES):
            most = max(most, abs(turns[j, g, lane] - turns[i, g, lane]))
        most *= 2
        while grid + 1 < n_grids and most <= MOST_TURN:
            grid, most = grid + 1, 2 * most
        grids[g] = grid
        coarsest = max(coarsest, grid)
    return coarsest


@njit(cache=True)
def _start(first, step, block, i, j, g, grid, phase, state):  # type: ignore[no-untyped-def]
    """Write a group's phasors to `phase` (at the first node, from node to node, over RUN nodes), and those over NODES_TOGETHER nodes to
    `state`."""
    for lane in range(LANES):
        a, b, c, d = first[grid, 0, j, g, lane], first[grid, 1, j, g, lane], first[grid, 0, i, g, lane], first[grid, 1, i, g, lane]
        phase[lane] = a * c + b * d
        phase[LANES + lane] = b * c - a * d
    for lane in range(LANES):
        a, b, c, d = step[grid, 0, j, g, lane], step[grid, 1, j, g, lane], step[grid, 0, i, g, lane], step[grid, 1, i, g, lane]
        phase[2 * LANES + lane] = a * c + b * d
        phase[3 * LANES + lane] = b * c - a * d
    for lane in range(LANES):
        a, b, c, d = block[grid, 0, j, g, lane], block[grid, 1, j, g, lane], block[grid, 0, i, g, lane], block[grid, 1, i, g, lane]
        phase[4 * LANES + lane] = a * c + b * d
        phase[5 * LANES + lane] = b * c - a * d
    for lane in range(LANES):
        c, s = phase[2 * LANES + lane], phase[3 * LANES + lane]
        c, s = c * c - s * s, 2 * c * s
        state[2 * _WIDE + lane] = np.float32(c * c - s * s)
        state[3 * _WIDE + lane] = np.float32(2 * c * s)


@njit(cache=True)
def _sinc(x):  # type: ignore[no-untyped-def]
    return np.sin(np.pi * x) / (np.pi * x) if abs(x) > 1e-9 else 1.0


@njit(cache=True)
def _smear(turns_band, turns_per_hz, i, j, g, middle_hz, phase, state):  # type: ignore[no-untyped-def]
    """Write the smearing over the channel times that over the integration, as a cubic of `squares`, to `state`; False
    if the latter is too much for a cubic. The sinc of the former and the turns per Hz are left in `phase`."""
    band, rate = 0.0, 0.0
    for lane in range(LANES):
        phase[6 * LANES + lane] = turns_band[j, g, lane] - turns_band[i, g, lane]
        phase[7 * LANES + lane] = turns_per_hz[j, g, lane] - turns_per_hz[i, g, lane]
    for lane in range(LANES):
        band, rate = max(band, abs(phase[6 * LANES + lane])), max(rate, abs(phase[7 * LANES + lane]))
    if band < _SHORT_TURNS:
        for lane in range(LANES):
            v = (np.pi * phase[6 * LANES + lane]) ** 2
            phase[6 * LANES + lane] = 1 - v * (1 / 6) * (1 - v * (1 / 20) * (1 - v * (1 / 42) * (1 - v * (1 / 72))))
    else:
        for lane in range(LANES):
            phase[6 * LANES + lane] = _sinc(phase[6 * LANES + lane])
    rate *= middle_hz
    if rate > _CUBIC_TURNS:
        return False
    scale = np.pi * middle_hz
    # Taylor expansion of sin(sqrt(y)) / sqrt(y) about z, a cubic of y / z - 1, from the series in y with terms t
    if rate < _SLOW_TURNS:
        for lane in range(LANES):
            across, z = phase[6 * LANES + lane], (scale * phase[7 * LANES + lane]) ** 2
            t1 = z * (-1 / 6)
            t2 = t1 * z * (-1 / 20)
            t3 = t2 * z * (-1 / 42)
            state[4 * _WIDE + lane] = np.float32(across * (1 + t1 + t2 + t3))
            state[5 * _WIDE + lane] = np.float32(across * (t1 + 2 * t2 + 3 * t3))
            state[6 * _WIDE + lane] = np.float32(across * (t2 + 3 * t3))
            state[7 * _WIDE + lane] = np.float32(across * t3)
    else:
        for lane in range(LANES):
            across, z = phase[6 * LANES + lane], (scale * phase[7 * LANES + lane]) ** 2
            t1 = z * (-1 / 6)
            t2 = t1 * z * (-1 / 20)
            t3 = t2 * z * (-1 / 42)
            t4 = t3 * z * (-1 / 72)
            t5 = t4 * z * (-1 / 110)
            t6 = t5 * z * (-1 / 156)
            t7 = t6 * z * (-1 / 210)
            t8 = t7 * z * (-1 / 272)
            state[4 * _WIDE + lane] = np.float32(across * (1 + t1 + t2 + t3 + t4 + t5 + t6 + t7 + t8))
            state[5 * _WIDE + lane] = np.float32(across * (t1 + 2 * t2 + 3 * t3 + 4 * t4 + 5 * t5 + 6 * t6 + 7 * t7 + 8 * t8))
            state[6 * _WIDE + lane] = np.float32(across * (t2 + 3 * t3 + 6 * t4 + 10 * t5 + 15 * t6 + 21 * t7 + 28 * t8))
            state[7 * _WIDE + lane] = np.float32(across * (t3 + 4 * t4 + 10 * t5 + 20 * t6 + 35 * t7 + 56 * t8))
    return True


@njit(cache=True)
def _add_group(spectra, squares, low, size, g, phase, state, sums):  # type: ignore[no-untyped-def]
    """Add a group's spectra x smearing x fringe at `size` nodes from `low` on to `sums`, which are laid out as in `_place`."""
    for row in range(2, 8):
        for lane in range(LANES, _WIDE):
            state[row * _WIDE + lane] = state[row * _WIDE + lane - LANES]
    wide = np.uint64(_WIDE)  # unsigned indices: compilers then know that none counts from the end
    for begin in range(0, size, RUN):
        _renew(phase, state)
        for k in range(begin, min(begin + RUN, size), NODES_TOGETHER):
            at, place = np.uint64((low + k) * LANES), np.uint64(2 * k * LANES)
            for lane in range(wide):
                c, s, q = state[lane], state[wide + lane], squares[at + lane]
                smear = state[_ROWS[4] + lane] + q * (state[_ROWS[5] + lane] + q * (state[_ROWS[6] + lane] + q * state[_ROWS[7] + lane]))
                amplitude = spectra[g, at + lane] * smear
                sums[place + lane] += amplitude * c
                sums[place + wide + lane] += amplitude * s
                state[lane] = c * state[_ROWS[2] + lane] - s * state[_ROWS[3] + lane]
                state[wide + lane] = c * state[_ROWS[3] + lane] + s * state[_ROWS[2] + lane]


@njit(cache=True)
def _add_smeared(spectra, frequencies_hz, low, size, g, phase, state, sums):  # type: ignore[no-untyped-def]
    """The same as `_add_group`, with each node's smearing computed from the sinc itself."""
    for k in range(size):
        if k % RUN == 0:
            _renew(phase, state)
        ahead, at = k % NODES_TOGETHER * LANES, _place(k)
        for lane in range(LANES):
            smear = phase[6 * LANES + lane] * _sinc(phase[7 * LANES + lane] * frequencies_hz[low + k])
            amplitude = spectra[g, (low + k) * LANES + lane] * np.float32(smear)
            c, s = state[ahead + lane], state[_WIDE + ahead + lane]
            sums[at + lane] += amplitude * c
            sums[at + _WIDE + lane] += amplitude * s
            state[ahead + lane] = c * state[2 * _WIDE + lane] - s * state[3 * _WIDE + lane]
            state[_WIDE + ahead + lane] = c * state[3 * _WIDE + lane] + s * state[2 * _WIDE + lane]


@njit(cache=True)
def _renew(phase, state):  # type: ignore[no-untyped-def]
    """Write the phasors of a run's first NODES_TOGETHER nodes to `state`, and advance `phase` to the next run."""
    for lane in range(LANES):
        a, b, c, s = phase[lane], phase[LANES + lane], phase[2 * LANES + lane], phase[3 * LANES + lane]
        for node in range(NODES_TOGETHER):
            state[node * LANES + lane] = np.float32(a)
            state[_WIDE + node * LANES + lane] = np.float32(b)
            a, b = a * c - b * s, a * s + b * c
    for lane in range(LANES):
        a, b, c, s = phase[lane], phase[LANES + lane], phase[4 * LANES + lane], phase[5 * LANES + lane]
        phase[lane] = a * c - b * s
        phase[LANES + lane] = a * s + b * c


@njit(cache=True)
def _place(node):  # type: ignore[no-untyped-def]
    """Position of a node's first lane in sums: NODES_TOGETHER nodes' real parts, their imaginary parts, the next nodes' parts."""
    return node // NODES_TOGETHER * 2 * _WIDE + node % NODES_TOGETHER * LANES


@njit(cache=True)
def _across(sums, at):  # type: ignore[no-untyped-def]
    """The sum of the lanes from `at` on."""
    a = (sums[at] + sums[at + 1]) + (sums[at + 2] + sums[at + 3])
    b = (sums[at + 4] + sums[at + 5]) + (sums[at + 6] + sums[at + 7])
    c = (sums[at + 8] + sums[at + 9]) + (sums[at + 10] + sums[at + 11])
    d = (sums[at + 12] + sums[at + 13]) + (sums[at + 14] + sums[at + 15])
    return (a + b) + (c + d)


@njit(cache=True)
def _put_each(sums, x, y, grid, g, bounds, sizes, halfway, places, models, row):  # type: ignore[no-untyped-def]
    """Write every source of a group separately."""
    low, size = bounds[grid], bounds[grid + 1] - bounds[grid]
    for lane in range(LANES):
        place = places[g * LANES + lane]
        if place < models.shape[0]:
            for k in range(low):
                x[k], y[k] = 0, 0
            for k in range(size):
                x[low + k], y[low + k] = sums[_place(k) + lane], sums[_place(k) + _WIDE + lane]
            _put(x, y, grid, bounds, sizes, halfway, models, place, row)


@njit(cache=True)
def _put(x, y, coarsest, bounds, sizes, halfway, models, model, row):  # type: ignore[no-untyped-def]
    """Interpolate all grids from the `coarsest` on to the channels, and write these."""
    for grid in range(coarsest, 0, -1):
        coarse, fine, outside = bounds[grid], bounds[grid - 1], OUTSIDE if grid > 1 else 0
        _refine(x, coarse, fine, sizes[grid - 1], outside, halfway)
        _refine(y, coarse, fine, sizes[grid - 1], outside, halfway)
    for k in range(models.shape[2]):
        models[model, row, k] = complex(x[k], y[k])


@njit(cache=True)
def _refine(nodes, coarse, fine, size, outside, halfway):  # type: ignore[no-untyped-def]
    """Add the grid of `nodes` that begins at `coarse` to the next finer one, `size` nodes from `fine` on, `outside` of
    which are before the band."""
    w0, w1, w2, w3 = halfway
    n = (size + 1) // 2
    first = coarse + OUTSIDE - outside // 2
    even, near = nodes[first : first + n], nodes[first + 1 : first + n + 1]
    before, after = nodes[first - 1 : first + n - 1], nodes[first + 2 : first + n + 2]
    before2, after2 = nodes[first - 2 : first + n - 2], nodes[first + 3 : first + n + 3]
    before3, after3 = nodes[first - 3 : first + n - 3], nodes[first + 4 : first + n + 4]
    out = nodes[fine : fine + 2 * n]
    for q in range(n):
        out[2 * q] += even[q]
        odd = w0 * (even[q] + near[q]) + w1 * (before[q] + after[q])
        out[2 * q + 1] += odd + (w2 * (before2[q] + after2[q]) + w3 * (before3[q] + after3[q]))
