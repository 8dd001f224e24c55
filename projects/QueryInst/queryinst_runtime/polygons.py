"""Outlines of masks, by OpenCV."""

import numpy as np


def contours_of(top: int, left: int, mask: np.ndarray) -> list[np.ndarray]:
    """The outer outlines of a mask's parts as (k, 2) float32 x, y in pixels of the image.

    Args:
        top, left: of the first pixel of `mask` in the image.
        mask: (h, w) bool.

    Outlines run along the borders of pixels, so that their area is the number of pixels: the mask
    is doubled before OpenCV follows the centres of its outermost pixels.

    Raises:
        ImportError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise ImportError("polygons need OpenCV: install opencv-python-headless") from None
    if not mask.any():
        return []
    doubled = np.pad(np.repeat(np.repeat(mask.astype(np.uint8), 2, 0), 2, 1), 1)
    found = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[-2]
    outlines = []
    for contour in found:
        corners = contour[:, 0].astype(np.float32) - 1  # of the doubled mask, without padding
        # The two centres within a pixel, 0 and 1, are its borders, 0 and 1 pixel.
        corners = np.where(corners % 2 == 0, corners / 2, (corners + 1) / 2)
        outlines.append(_without_needless(corners) + np.array([left, top], np.float32))
    return outlines


def _without_needless(corners: np.ndarray) -> np.ndarray:
    """(k, 2) x, y without points that repeat the one before, or lie between two on a line."""
    corners = corners[(corners != np.roll(corners, 1, 0)).any(1)]
    before, behind = corners - np.roll(corners, 1, 0), np.roll(corners, -1, 0) - corners
    return corners[before[:, 0] * behind[:, 1] != before[:, 1] * behind[:, 0]]
