"""One training step: forward pass in the wanted precision, backward pass, look, update."""

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..solver import grad_norm
from ..structures import WholeBatch
from .amp import build_grad_scaler, training_autocast
from .nonfinite import NonFiniteError, check_finite, first_bad_gradient

Batch = list[dict[str, Any]]


def split_batch(batch: Batch, num_parts: int) -> list[Batch]:
    """Split into consecutive parts that differ by at most one image; fewer if images are fewer."""
    num_parts = min(num_parts, len(batch))
    limits = [len(batch) * part // num_parts for part in range(num_parts + 1)]
    return [batch[start:end] for start, end in zip(limits, limits[1:])]


def describe_batch(batch: Batch) -> WholeBatch:
    """Return what each part needs to know of its batch, so that gradients add up to the whole's."""
    sizes = [x["image"].shape[-2:] for x in batch]
    return WholeBatch(
        num_instances=tuple(len(x["instances"]) for x in batch),
        size=(max(height for height, _ in sizes), max(width for _, width in sizes)),
    )


def without_sync(model: nn.Module) -> AbstractContextManager:
    """Return the context of all parts but the last: processes exchange gradients once."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


class StepTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer in any precision, on any device.

    Its AMPTrainer knows CUDA alone, and leaves the unscaling to a step that has clipped by then.
    """

    def __init__(self, model, data_loader, optimizer, cfg: CfgNode):
        """
        Args:
            cfg: SOLVER.AMP, SOLVER.ACCUMULATE_STEPS and MODEL.DEVICE are read.
        """
        # Gradients are dropped before the forward pass, lest they lie beside its activations.
        super().__init__(model, data_loader, optimizer, zero_grad_before_forward=True)
        self._cfg = cfg
        self.grad_scaler = build_grad_scaler(cfg)
        self._has_stepped = False
        optimizer.register_step_post_hook(self._note_step)

    def autocast(self) -> AbstractContextManager:
        """The context of the forward pass."""
        return training_autocast(self._cfg)

    def run_step(self):
        """One iteration.

        Raises:
            FloatingPointError: a loss or gradient is not finite; the weights are as they were. A
                NonFiniteError but for matching costs that are not finite in one process.
        """
        assert self.model.training, "the model is in eval mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        loss_dict = self.accumulate(data)
        self.after_backward()
        self.check(loss_dict)
        self._write_metrics(loss_dict, data_time)
        self.update()

    def accumulate(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The losses of the batch, after the backward passes of its parts."""
        num_parts = self._cfg.SOLVER.ACCUMULATE_STEPS
        if num_parts == 1:
            return self._run(batch)
        whole = describe_batch(batch)
        *parts, last = split_batch(batch, num_parts)
        with without_sync(self.model):
            losses = [self._run(part, whole) for part in parts]
        losses.append(self._run(last, whole))
        return {name: torch.stack([x[name] for x in losses]).sum() for name in losses[0]}

    def _run(self, *args) -> dict[str, torch.Tensor]:
        """One forward and backward pass; the losses, detached."""
        with self.autocast():
            losses = self.model(*args)
            loss = sum(losses.values())
        self.backward(loss)
        return {name: loss.detach() for name, loss in losses.items()}

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of the loss; of the scaled loss with a scaler."""
        (self.grad_scaler.scale(loss) if self.grad_scaler else loss).backward()

    def check(self, losses: dict[str, torch.Tensor]) -> None:
        """Raise a NonFiniteError unless losses and gradients are finite.

        With a scaler gradients that overflow are its business.
        """
        norm = grad_norm(self.optimizer) if self.grad_scaler is None else None
        try:
            check_finite(losses, norm)
        except NonFiniteError as error:
            name = "" if error.ranks else first_bad_gradient(self.model)
            if not name:
                raise
            raise NonFiniteError(f"{error}, first that of {name}") from None

    def update(self) -> None:
        """Unscale, then what the optimizer does before its step, such as clipping, then the step.

        With a scaler a step whose gradients are not finite is left out.

        Raises:
            NonFiniteError: gradients overflow even if the loss is made smaller.
        """
        if self.grad_scaler is None:
            self.optimizer.step()
            return
        self._has_stepped = False
        self.grad_scaler.unscale_(self.optimizer)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        # The scale is on the device, so that it is looked at after an overflow alone.
        if not self._has_stepped and self.grad_scaler.get_scale() < 1:
            raise NonFiniteError("gradients overflow in fp16 though the loss is scaled down")

    def _note_step(self, *_: Any) -> None:
        self._has_stepped = True

    def state_dict(self):
        """SimpleTrainer's, with the scaler's if there is one."""
        state = super().state_dict()
        if self.grad_scaler is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict):
        """Resume; a run that changed its precision starts with a new scaler, or with none."""
        super().load_state_dict(state_dict)
        if self.grad_scaler is not None and state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
