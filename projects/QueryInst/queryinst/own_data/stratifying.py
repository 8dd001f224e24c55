"""Iterative stratification: parts of a set in which every label is about as frequent.

Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-label Data (ECML PKDD 2011),
algorithm 1, of groups of examples that stay together instead of single ones. Where parts need a
label equally but for one example, that with the most room for its size gets the group, so that
labels of a few examples each do not all end in the largest part.
"""

from collections.abc import Sequence

import numpy as np

from ..wording import counted


class TooFewError(ValueError):
    """There are fewer groups than parts."""


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
        TooFewError: there are fewer groups than parts.
    """
    wanted = [place for place, share in enumerate(shares) if share > 0]
    if len(sizes) < len(wanted):
        raise TooFewError(
            f"{counted(len(sizes), 'image')}, of equal ones the first alone, cannot be split into"
            f" {len(wanted)} parts"
        )
    generator = np.random.default_rng(seed)
    ratios = np.asarray(shares, dtype=float)
    room = sizes.sum() * ratios  # (P,), examples that a part still takes
    label_goal = labels.sum(0)[:, None] * ratios  # (K, P)
    label_room = label_goal.copy()
    parts = np.full(len(sizes), -1)
    left = labels.astype(np.int64).copy()  # of groups that have no part

    def assign(group: int, near: np.ndarray) -> None:
        """Give a group to that of these parts that has the most room for its size."""
        free = room[near] / ratios[near]
        best = near[free == free.max()]
        part = best[0] if len(best) == 1 else generator.choice(best)
        parts[group] = part
        room[part] -= sizes[group]
        label_room[:, part] -= labels[group]

    order = generator.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]  # while there is room for large ones
    while (totals := left.sum(0)).any():
        label = int(np.where(totals > 0, totals, totals.max() + 1).argmin())
        for group in order[left[order, label] > 0]:
            assign(group, _parts_in_need(label_room[label], label_goal[label]))
            left[group] = 0
    for group in order[parts[order] < 0]:  # without a label
        assign(group, np.flatnonzero(room == room.max()))
    for part in wanted:
        if not (parts == part).any():
            fullest = np.bincount(parts, minlength=len(shares)).argmax()
            parts[np.flatnonzero(parts == fullest)[-1]] = part
    return parts


def _parts_in_need(need: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The parts that need a label most, or less by below one example; who has none goes first."""
    most = need.max()
    first = need.argmax()
    if need[first] == goal[first]:
        return np.flatnonzero((need == most) & (goal > 0))
    return np.flatnonzero((need > most - 1) & (goal > 0))
