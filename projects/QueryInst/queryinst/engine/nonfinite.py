"""Steps whose losses or gradients are not finite, seen before the update by all processes."""

from pathlib import Path

import torch
from detectron2.utils import comm
from torch import Tensor, distributed, nn

from ..structures import BatchTargets, MatchedIndices, StageOutput
from .batches import LastBatch


class NonFiniteError(FloatingPointError):
    """A step must not update the weights. All processes raise it in the same place.

    Attributes:
        ranks: whose own losses or costs are to blame; empty if gradients are, which processes have
            added up by then.
    """

    def __init__(self, text: str, ranks: tuple[int, ...] = ()):
        super().__init__(text)
        self.ranks = ranks


def check_finite(losses: dict[str, Tensor], grad_norm: Tensor | None = None) -> None:
    """Look at scalar losses and the norm of the gradients, in one transfer.

    With several processes at the others' losses too, so that all of them call this.

    Raises:
        NonFiniteError: some are not finite; names them.
    """
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    norm = values.new_zeros(()) if grad_norm is None else grad_norm.detach().to(values)
    is_bad = ~values.isfinite().all()
    *numbers, total_norm = torch.cat([_of_all(is_bad), values, norm[None]]).tolist()
    world = comm.get_world_size()
    ranks = tuple(rank for rank in range(world) if numbers[rank])
    if ranks:
        raise NonFiniteError(_name_bad(list(losses), numbers[world:]), ranks)
    if not _is_finite(total_norm):
        raise NonFiniteError(f"the norm of the gradients is {total_norm}")


def _of_all(is_bad: Tensor) -> Tensor:
    """(world size,) 1 for each process where the flag is set, on the flag's device."""
    flags = torch.zeros(comm.get_world_size(), device=is_bad.device)
    flags[comm.get_rank()] = is_bad
    if len(flags) > 1:
        distributed.all_reduce(flags)
    return flags


def _name_bad(names: list[str], values: list[float]) -> str:
    bad = [f"{name} is {value}" for name, value in zip(names, values) if not _is_finite(value)]
    more = f" and {len(bad) - 3} more are not finite" if len(bad) > 3 else ""
    return ", ".join(bad[:3]) + more or "a loss of another process is not finite"


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")


def first_bad_gradient(model: nn.Module) -> str:
    """Name the first parameter whose gradient is not finite; empty if all are."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return name.removeprefix("module.")
    return ""


def describe_step(error: FloatingPointError, batch: LastBatch) -> str:
    """The reason with the images of the processes at fault, in one line.

    After a NonFiniteError all processes must call this, and get the same line.
    """
    reason = " ".join(batch.name_images(str(error)).split())
    line = f"{reason}; in {batch.describe()}"
    if not isinstance(error, NonFiniteError) or comm.get_world_size() == 1:
        return line
    lines = comm.all_gather(line if error.ranks else batch.describe())
    ranks = error.ranks or range(len(lines))
    said = "; ".join(f"rank {rank}: {lines[rank]}" for rank in ranks)
    return said if error.ranks else f"{reason}; in {said}"


def advice(limit: int, output_dir: str) -> str:
    """What to do about a step that ends the run.

    Args:
        limit: SOLVER.SKIP_NONFINITE.
    """
    tag = Path(output_dir, "last_checkpoint")
    too_many = f"SOLVER.SKIP_NONFINITE {limit} steps in a row were left out before; "
    name = tag.read_text(errors="replace") if tag.is_file() else ""
    last = f"the last checkpoint is as it was, {name}" if name else "there is no checkpoint yet"
    return (
        f"{too_many if limit else ''}a lower SOLVER.BASE_LR or longer SOLVER.WARMUP_ITERS may "
        f"help, and {last}"
    )


class NonFiniteSteps:
    """Leaves out up to `limit` steps in a row that must not update the weights.

    Buffers, which the forward pass of such a step has changed, are as they were before it. Several
    processes agree on each step's matching costs (`AgreeingMatcher`).
    """

    def __init__(self, model: nn.Module, limit: int):
        """
        Args:
            limit: SOLVER.SKIP_NONFINITE; with 0 nothing is remembered.
        """
        self._model = model
        self._limit = limit
        self._in_a_row = 0
        self._buffers: list[Tensor] = []
        if limit and comm.get_world_size() > 1 and hasattr(model, "matcher"):
            setattr(model, "matcher", AgreeingMatcher(model.matcher))

    @torch.no_grad()
    def before_step(self) -> None:
        """Remember the buffers."""
        if self._limit:
            self._buffers = [buffer.clone() for buffer in self._model.buffers()]

    def after_step(self) -> None:
        """Count anew: this step updates the weights."""
        self._in_a_row = 0

    @torch.no_grad()
    def leave_out(self) -> str:
        """Restore the buffers; say which step in a row this was, or nothing if it is too many."""
        self._in_a_row += 1
        if self._in_a_row > self._limit:
            return ""
        for buffer, before in zip(self._model.buffers(), self._buffers):
            buffer.copy_(before)
        return f"left out as step {self._in_a_row} of at most {self._limit} in a row"


class AgreeingMatcher:
    """A matcher that raises in all processes if it does in one, so that all leave the step out.

    It costs a small exchange in each forward pass.
    """

    def __init__(self, matcher):
        self._matcher = matcher

    def __call__(self, outputs: list[StageOutput], targets: BatchTargets) -> list[MatchedIndices]:
        """As `HungarianMatcher`'s.

        Raises:
            NonFiniteError: a cost is not finite, here or in another process.
        """
        if not torch.is_grad_enabled():  # a validation loss, which no step depends on
            return self._matcher(outputs, targets)
        reason, matches = "", []
        try:
            matches = self._matcher(outputs, targets)
        except FloatingPointError as error:
            reason = str(error)
        flags = _of_all(torch.tensor(bool(reason), device=targets.boxes.device)).tolist()
        if ranks := tuple(rank for rank, flag in enumerate(flags) if flag):
            reason = reason or "matching costs of another process are not finite"
            raise NonFiniteError(reason, ranks)
        return matches
