"""MMDetection's optimizer at work, its schedules and its lists of parameters."""

from typing import Any

import mmdet_peer
import torch
from mmdet_optimizer import Optimizer, build_optimizer
from mmdet_runs import training_run
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS
from parity_cases import Batch
from torch import Tensor, nn

# COCO train2017 has 117,266 images with instances; in batches of 16.
ITERATIONS_PER_EPOCH = 7330


def parameter_groups(optimizer: Optimizer, model: nn.Module) -> list[dict[str, Any]]:
    """Trained parameters by learning rate and weight decay, those of equal settings together."""
    names = {id(param): name for name, param in model.named_parameters()}
    groups: dict[tuple, list[str]] = {}
    for group in optimizer.param_groups:
        trained = [names[id(param)] for param in group["params"] if param.requires_grad]
        if trained:
            groups.setdefault((group["lr"], group["weight_decay"]), []).extend(trained)
    return [
        {"lr": lr, "weight_decay": decay, "names": sorted(names)}
        for (lr, decay), names in sorted(groups.items())
    ]


def clipped_step(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """One step on the gradients that are in the model: all parameters afterwards.

    Raises:
        AssertionError: the gradients are too small to be clipped.
    """
    grads = [param.grad.flatten() for param in model.parameters() if param.grad is not None]
    norm, limit = float(torch.cat(grads).norm()), optimizer.wrapper.clip_grad_kwargs["max_norm"]
    assert norm > limit, f"a gradient of norm {norm} is not clipped to {limit}"
    optimizer.step()
    return parameters(model)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {f"parameter/{name}": param.detach() for name, param in model.named_parameters()}


def long_run(
    model: nn.Module, optimizer: Optimizer, batches: list[Batch], steps: int, check
) -> dict[str, Tensor]:
    """All losses of every step, (steps,) by name, and the parameters at the end.

    Args:
        check: called with every record.
    """
    losses: dict[str, list[Tensor]] = {}
    for step in range(steps):
        batch = batches[step % len(batches)]
        record = training_run(model, batch.images, batch.objects, torch.float64)
        check(record)
        for key, value in record.items():
            if key.startswith("loss/"):
                losses.setdefault(key, []).append(value)
        optimizer.step()
    return {key: torch.stack(values) for key, values in losses.items()} | parameters(model)


def learning_rates(cfg: Config) -> dict[str, list[float]]:
    """Iteration -> rates of bottom_up and of the rest, by mmengine's schedulers stepped through."""
    model = nn.ModuleDict({"backbone": nn.Linear(1, 1, False), "head": nn.Linear(1, 1, False)})
    optimizer = build_optimizer(cfg, model)
    schedulers = [
        PARAM_SCHEDULERS.build(
            settings,
            default_args=dict(optimizer=optimizer.wrapper, epoch_length=ITERATIONS_PER_EPOCH),
        )
        for settings in cfg.param_scheduler
    ]
    last = cfg.train_cfg.max_epochs * ITERATIONS_PER_EPOCH - 1
    drops = [epoch * ITERATIONS_PER_EPOCH for epoch in cfg.param_scheduler[1].milestones]
    wanted = {0, 1, 498, 499, 998, 999, 1000, *drops, *(drop - 1 for drop in drops), last}
    rates = {}
    for iteration in range(last + 1):
        if iteration in wanted:
            rates[str(iteration)] = [group["lr"] for group in optimizer.param_groups]
        ends_epoch = (iteration + 1) % ITERATIONS_PER_EPOCH == 0
        for scheduler in schedulers:
            if ends_epoch or not scheduler.by_epoch:
                scheduler.step()
    return rates


def parameter_names(name: str) -> dict[str, list[str]]:
    """Trained and frozen ones of a full model, which takes no memory."""
    with torch.device("meta"):
        model = mmdet_peer.build(mmdet_peer.load_config(name))
    model.train()
    names: dict[str, list[str]] = {"trained": [], "frozen": []}
    for key, param in model.named_parameters():
        names["trained" if param.requires_grad else "frozen"].append(key)
    return {kind: sorted(keys) for kind, keys in names.items()}
