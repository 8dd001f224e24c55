"""Random images with random objects on them, the same in every run."""

import torch
from detectron2.structures import BitMasks, Boxes, Instances

Size = tuple[int, int]  # height, width in pixels


def random_inputs(
    num_images: int,
    size: Size,
    *,
    num_instances: int,
    num_classes: int,
    output_size: Size | None = None,
    seed: int = 0,
) -> list[dict]:
    """A batch as a DatasetMapper gives it: uint8 images with gt_boxes, gt_classes and gt_masks.

    Args:
        size: of the images as the network sees them.
        num_instances: of each image.
        output_size: what detections are brought into; None for `size`.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = output_size or size
    return [
        {
            "image": _image(size, generator),
            "instances": _instances(size, num_instances, num_classes, generator),
            "height": height,
            "width": width,
            "file_name": f"random_{image}.png",
        }
        for image in range(num_images)
    ]


def _image(size: Size, generator: torch.Generator) -> torch.Tensor:
    """(3, H, W) uint8: flat patches of 24 pixels under noise."""
    height, width = size
    patches = torch.randint(200, (3, height // 24 + 1, width // 24 + 1), generator=generator)
    smooth = patches.repeat_interleave(24, 1).repeat_interleave(24, 2)[:, :height, :width]
    noise = torch.randint(56, (3, height, width), generator=generator)
    return (smooth + noise).to(torch.uint8)


def _instances(size: Size, num: int, num_classes: int, generator: torch.Generator) -> Instances:
    """Ellipses that fill their boxes, of 8 pixels to half of the image."""
    whwh = torch.tensor([size[1], size[0]]).repeat(2)
    sides = (torch.rand(num, 2, generator=generator) * 0.5 * whwh[:2]).clamp(min=8)
    corners = torch.rand(num, 2, generator=generator) * (whwh[:2] - sides)
    boxes = torch.cat([corners, corners + sides], dim=1)
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)  # (G, 1)
    across = (2 * torch.arange(size[1]) - x0 - x1) / (x1 - x0)  # (G, W), -1 to 1 in the box
    down = (2 * torch.arange(size[0]) - y0 - y1) / (y1 - y0)
    masks = across[:, None].square() + down[:, :, None].square() <= 1
    instances = Instances(size)
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.randint(num_classes, (num,), generator=generator)
    instances.gt_masks = BitMasks(masks)
    return instances
