from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from queryinst.engine import main
from queryinst.engine.batches import LastBatch
from queryinst.engine.training_pictures import TrainingPictures
from queryinst.testing import random_batch


class Knowing(nn.Module):
    """Predicts the truth of the first image it was trained on."""

    def __init__(self, truth):
        super().__init__()
        self.truth = truth

    def forward(self, inputs):
        if self.training:
            return {}
        assert inputs[0].keys() == {"image"} and not torch.is_grad_enabled()
        instances = Instances(self.truth.image_size)
        instances.pred_boxes = self.truth.gt_boxes
        instances.pred_classes = self.truth.gt_classes
        instances.pred_masks = self.truth.gt_masks.tensor
        instances.scores = torch.linspace(0.9, 0.5, len(self.truth))
        return [{"instances": instances}]


@pytest.mark.parametrize("iteration, num", [(0, 1), (3, 0), (4, 1)])
def test_training_pictures_show_truth_and_prediction_side_by_side(iteration, num):
    batch = random_batch((2, 1))
    batch[0]["image"] = torch.full((3, 64, 96), 128, dtype=torch.uint8)
    model = Knowing(batch[0]["instances"]).train()
    metadata = Metadata(name="pictures", thing_classes=["a", "b", "c"])
    pictures = TrainingPictures(4, model, "RGB", metadata)
    last = LastBatch(model)
    model(batch)
    with EventStorage() as storage:
        pictures.trainer = SimpleNamespace(iter=iteration, storage=storage)
        pictures.take(last)
        last.forget()
        pictures.after_step()
        pictures.after_step()  # once
        shown = storage._vis_data
    assert len(shown) == num and model.training
    if num:
        name, picture, _ = shown[0]
        assert name == "Left: ground truth;  Right: predictions" and picture.shape == (3, 64, 192)
        left, right = np.split(picture.astype(int), 2, axis=2)
        inside = batch[0]["instances"].gt_masks.tensor.any(0).numpy()
        for side in (left, right):
            assert (np.abs(side - 128).max(0)[inside] > 8).mean() > 0.9


def test_vis_period_writes_pictures_for_tensorboard(make_args, tmp_path):
    main(make_args("VIS_PERIOD", 2, "SOLVER.MAX_ITER", 5, "SOLVER.ACCUMULATE_STEPS", 2))
    events = EventAccumulator(str(tmp_path / "output"), size_guidance={"images": 0})
    events.Reload()
    (tag,) = events.Tags()["images"]
    assert [x.step for x in events.Images(tag)] == [0, 2, 4]
