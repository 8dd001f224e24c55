"""Large 3x3 convolutions by Winograd's minimal filtering, with 16 products instead of 36.

A tile of 2x2 pixels of the result comes from a patch of 4x4 of the input. Both are transformed by
sums and differences alone, and between them lie 16 matrix products over all tiles: 4 products of
numbers a pixel and pair of channels, where a convolution needs 9. Lavin and Gray, Fast Algorithms
for Convolutional Neural Networks (CVPR 2016), section 4.1, F(2x2, 3x3), with one sign turned in
two of the transforms.

Convolutions here have stride 1 and one zero around the image, and channels lie innermost in memory.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..modeling import QueryInst
from .conv2d import Conv2dWay, Geometry, share_with_gradient, speed_up_convolutions

# What was measured to gain on two cores with AVX2. Where less is to do, or channels are few, the
# transforms take what the products save.
MIN_CHANNELS = 128
MIN_PRODUCTS = 2.5e7  # of tiles, channels in and channels out
FLOATS_PER_THREAD = 2**21  # between transform and products at once: 8 MB
# Share of pixels with a gradient, below which other ways to the weight's gradient are faster.
MIN_SHARE = 0.45


class Winograd(Conv2dWay):
    """3x3 with stride 1 and padding 1, where it is large."""

    def forward(self, x, weight, bias, at):
        return convolve_3x3(x, weight, bias) if use_winograd(x, weight, at) else None

    def input_grad(self, grad, x, weight, at):
        return input_gradient(grad, weight) if use_winograd(x, weight, at) else None

    def weight_grad(self, grad, x, weight, at):
        if use_winograd(x, weight, at) and share_with_gradient(grad) > MIN_SHARE:
            return weight_gradient(x, grad)
        return None

    def supports_backward(self, x, weight, at):
        return use_winograd(x, weight, at)


def apply_to_model(model: QueryInst) -> None:
    """Let the convolutions of `model` use it where it gains."""
    speed_up_convolutions(model, way=Winograd())


def use_winograd(x: Tensor, weight: Tensor, at: Geometry) -> bool:
    """Whether it can compute the convolution, and gains."""
    return (
        weight.shape[2:] == (3, 3)
        and at.stride == at.padding == (1, 1)
        and is_worthwhile(x.shape, len(weight))
    )


def is_worthwhile(shape: torch.Size, num_channels: int) -> bool:
    """Whether a convolution gains.

    Args:
        shape: (N, C, H, W) of what it sees.
        num_channels: of its result.
    """
    num_tiles = shape[0] * ((shape[2] + 1) // 2) * ((shape[3] + 1) // 2)
    return (
        min(shape[1], num_channels) >= MIN_CHANNELS
        and num_tiles * shape[1] * num_channels >= MIN_PRODUCTS
    )


def convolve_3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.conv2d`` with padding 1.

    Args:
        x: (N, C, H, W).
        weight: (O, C, 3, 3).
        bias: (O,).

    Returns:
        (N, O, H, W), channels innermost; a tensor of its own, no view.
    """
    kernels = _transform_kernel(weight)
    x = _channels_last(x)
    rows, columns = _count_tiles(x)
    size = (len(x), len(weight), 2 * rows, 2 * columns)
    y = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
    tiles = _to_tiles(y.permute(0, 2, 3, 1))
    for images, part, patches in _patches(x, len(weight)):
        transformed = _transform_patches(patches)
        shape = (*transformed.shape[:-1], len(weight))
        products = torch.bmm(transformed.view(16, -1, x.shape[3]), kernels).view(shape)
        if bias is not None:
            products[1, 1] += bias  # which is part of all four pixels
        _add_up_products(products, tiles[images, part])
    if y.shape[2:] == x.shape[1:3]:
        return y
    return y[:, :, : x.shape[1], : x.shape[2]].clone(memory_format=torch.channels_last)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """What the input of a convolution gets.

    Args:
        grad: (N, O, H, W), of the result.
        weight: (O, C, 3, 3).

    Returns:
        (N, C, H, W), channels innermost.
    """
    return convolve_3x3(grad, weight.flip(2, 3).transpose(0, 1))


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """What the weight of a convolution gets.

    Args:
        x: (N, C, H, W), what it saw.
        grad: (N, O, H, W), of its result.

    Returns:
        (O, C, 3, 3).
    """
    x, grad = _channels_last(x), _channels_last(grad)
    rows, columns = _count_tiles(x)
    height, width = x.shape[1:3]
    tiles = _to_tiles(F.pad(grad, (0, 0, 0, 2 * columns - width, 0, 2 * rows - height)))
    products = x.new_zeros(16, x.shape[3], grad.shape[3])
    for images, part, patches in _patches(x, grad.shape[3]):
        transformed = _transform_patches(patches).view(16, -1, x.shape[3])
        products.baddbmm_(transformed.transpose(1, 2), _spread_tiles(tiles[images, part]))
    return _collect_kernel(products)


def _channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C), contiguous."""
    return x.permute(0, 2, 3, 1).contiguous()


def _to_tiles(x: Tensor) -> Tensor:
    """(N, 2r, 2c, C) -> (N, r, 2, c, 2, C), not copied."""
    return x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))


def _count_tiles(x: Tensor) -> tuple[int, int]:
    """Rows and columns of tiles of 2x2 pixels that cover (N, H, W, C)."""
    return (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2


def _patches(x: Tensor, num_channels: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Parts of a batch, each of a few whole images or of a few rows of tiles of one.

    They are so small that what lies between the transforms stays in the cache.

    Args:
        x: (N, H, W, C).
        num_channels: of the result.

    Yields:
        the images, their rows of tiles, and (n, 2r + 2, 2c + 2, C): the pixels of these tiles
        with a margin of one, zeros outside of the image.
    """
    rows, columns = _count_tiles(x)
    height, width = x.shape[1:3]
    floats_per_tile = 16 * max(x.shape[3], num_channels)
    at_once = FLOATS_PER_THREAD * torch.get_num_threads() // floats_per_tile
    images_at_once = max(1, at_once // (rows * columns))
    rows_at_once = min(rows, max(1, at_once // columns))
    for first in range(0, len(x), images_at_once):
        images = slice(first, min(first + images_at_once, len(x)))
        for top in range(0, rows, rows_at_once):
            part = slice(top, min(top + rows_at_once, rows))
            start, end = 2 * part.start - 1, 2 * part.stop + 1
            inside = x[images, max(start, 0) : min(end, height)]
            margins = (max(-start, 0), max(end - height, 0))
            yield images, part, F.pad(inside, (0, 0, 1, 2 * columns + 1 - width, *margins))


def _transform_patches(patches: Tensor) -> Tensor:
    """Sums and differences of the patches' pixels, first along columns, then along rows.

    Args:
        patches: (n, 2r + 2, 2c + 2, C).

    Returns:
        (4, 4, n, r, c, C).
    """
    rows, columns = patches.shape[1] // 2 - 1, patches.shape[2] // 2 - 1
    transformed = patches.new_empty(4, 4, len(patches), rows, columns, patches.shape[3])
    for sums, into in zip(_filter(patches, 1), transformed):
        for x, out in zip(_pairs(sums, 2), into):
            torch.add(x[0], x[1], alpha=x[2], out=out)
    return transformed


def _pairs(x: Tensor, dim: int) -> list[tuple[Tensor, Tensor, int]]:
    """What is added to what and with which sign, for the four filters of pixels along `dim`.

    With pixels a, b, c, d of a patch these are a - c, b + c, c - b and d - b.

    Args:
        x: 2t + 2 long in `dim`.

    Returns:
        Pairs of tensors that are t long in it, and the second's sign.
    """
    num_tiles = x.shape[dim] // 2 - 1
    pixels = x.unflatten(dim, (num_tiles + 1, 2))
    even, odd = pixels.select(dim + 1, 0), pixels.select(dim + 1, 1)
    a, b = even.narrow(dim, 0, num_tiles), odd.narrow(dim, 0, num_tiles)
    c, d = even.narrow(dim, 1, num_tiles), odd.narrow(dim, 1, num_tiles)
    return [(a, c, -1), (b, c, 1), (c, b, -1), (d, b, -1)]


def _filter(x: Tensor, dim: int) -> Iterator[Tensor]:
    """The four filters along `dim`, one at a time."""
    for first, second, sign in _pairs(x, dim):
        yield torch.add(first, second, alpha=sign)


def _add_up_products(products: Tensor, tiles: Tensor) -> None:
    """Make the pixels of tiles, the opposite of `_spread_tiles`: 1 1 1 0 and 0 1 -1 1.

    Args:
        products: (4, 4, n, r, c, O); they are destroyed.
        tiles: (n, r, 2, c, 2, O), written to.
    """
    first, second, third, fourth = products
    difference = second - third
    upper = first.add_(second).add_(third)
    lower = fourth.add_(difference)
    for sums, pixels in zip((upper, lower), tiles.unbind(2)):
        left, right = pixels.unbind(3)
        torch.add(sums[0], sums[1], out=left)
        left += sums[2]
        torch.sub(sums[1], sums[2], out=right)
        right += sums[3]


def _spread_tiles(tiles: Tensor) -> Tensor:
    """What the 16 products of each tile get from its pixels.

    Args:
        tiles: (n, r, 2, c, 2, O).

    Returns:
        (16, n*r*c, O).
    """
    upper, lower = tiles.unbind(2)
    spread = tiles.new_empty(4, 4, *upper.shape[:3], upper.shape[4])
    for pixels, into in zip((upper, upper + lower, upper - lower, lower), spread):
        left, right = pixels.unbind(3)
        into[0], into[3] = left, right
        torch.add(left, right, out=into[1])
        torch.sub(left, right, out=into[2])
    return spread.view(16, -1, tiles.shape[5])


def _transform_kernel(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (16, C, O)."""
    taps = weight.permute(2, 3, 1, 0).contiguous()
    rows = _spread_taps(taps)
    return torch.stack([_spread_taps(row) for row in rows]).flatten(0, 1)


def _spread_taps(taps: Tensor) -> Tensor:
    """(3, ...) of p, q, r -> (4, ...): p, (p + q + r) / 2, (p - q + r) / 2 and r."""
    p, q, r = taps
    outer, q = (p + r) / 2, q / 2
    return torch.stack([p, outer + q, outer - q, r])


def _collect_kernel(products: Tensor) -> Tensor:
    """The opposite of `_transform_kernel`: (16, C, O) -> (O, C, 3, 3)."""
    rows = _collect_taps(products.unflatten(0, (4, 4)))
    taps = torch.stack([_collect_taps(row) for row in rows])
    return taps.permute(3, 2, 0, 1).contiguous()


def _collect_taps(products: Tensor) -> Tensor:
    """The opposite of `_spread_taps`: (4, ...) -> (3, ...)."""
    first, plus, minus, last = products
    both, difference = (plus + minus) / 2, (plus - minus) / 2
    return torch.stack([first + both, difference, last + both])
