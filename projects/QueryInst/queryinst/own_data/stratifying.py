"""Iterative stratification: parts of a set in which every label is about as frequent.

Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-label Data (ECML PKDD 2011),
algorithm 1, of groups of examples that stay together instead of single ones.
"""

from collections.abc import Sequence

import numpy as np


def stratify(
    labels: np.ndarray, sizes: np.ndarray, shares: Sequence[float], seed: int
) -> np.ndarray:
    """Assign groups to parts, those with the rarest label first.

    Args:
        labels: (G, K) integers, how many examples of a group have a label.
        sizes: (G,), how many examples a group has.
        shares: of the examples, of each part; they sum up to 1.
        seed: decides between equals.

    Returns:
        (G,), the place of each group's part in `shares`. No part of a share above 0 is empty.

    Raises:
        ValueError: there are fewer groups than parts.
    """
    wanted = [place for place, share in enumerate(shares) if share > 0]
    if len(sizes) < len(wanted):
        have = f"{len(sizes)} image" + "s" * (len(sizes) != 1)
        raise ValueError(
            f"{have}, of equal ones the first alone, cannot be split into {len(wanted)} parts"
        )
    generator = np.random.default_rng(seed)
    ratios = np.asarray(shares, dtype=float)
    room = sizes.sum() * ratios  # (P,), examples that a part still takes
    label_room = labels.sum(0)[:, None] * ratios  # (K, P)
    parts = np.full(len(sizes), -1)
    left = labels.astype(np.int64).copy()  # of groups that have no part
    order = generator.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]  # while there is room for large ones
    while (totals := left.sum(0)).any():
        label = int(np.where(totals > 0, totals, totals.max() + 1).argmin())
        for group in order[left[order, label] > 0]:
            _assign(group, label_room[label], labels, sizes, room, label_room, parts, generator)
            left[group] = 0
    for group in order[parts[order] < 0]:  # without a label
        _assign(group, room, labels, sizes, room, label_room, parts, generator)
    for part in wanted:
        if not (parts == part).any():
            fullest = np.bincount(parts, minlength=len(shares)).argmax()
            parts[np.flatnonzero(parts == fullest)[-1]] = part
    return parts


def _assign(group, need, labels, sizes, room, label_room, parts, generator) -> None:
    """Give a group to the part that needs its label most, of those the one with most room."""
    best = np.flatnonzero(need == need.max())
    best = best[room[best] == room[best].max()]
    part = best[0] if len(best) == 1 else generator.choice(best)
    parts[group] = part
    room[part] -= sizes[group]
    label_room[:, part] -= labels[group]
