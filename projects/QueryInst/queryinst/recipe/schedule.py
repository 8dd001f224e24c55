"""How long, in which batches and how fast the model learns, and what is kept on the way."""

from math import ceil, sqrt

from ..wording import counted
from .memory import images_in_memory
from .statistics import DataStatistics
from .structures import Derived, Machine, Start, Wishes

_SHORT = 600  # iterations, of which random weights need a higher rate
_MOST_WARMUP = 1000
_MOST_EVALUATIONS = 10
_PATIENCE = 0.7  # of the evaluations: the falling rate makes the last ones the best


def derive_schedule(
    train: DataStatistics,
    val: DataStatistics,
    start: Start,
    machine: Machine,
    wishes: Wishes,
    image_bytes: float,
    fixed_bytes: float,
) -> list[Derived]:
    """Keys of SOLVER, and when to evaluate.

    Args:
        image_bytes: that an image takes in a step.
        fixed_bytes: that model and optimizer take.
    """
    batch, keys = _batch(start, machine, wishes, image_bytes, fixed_bytes)
    iterations, why = _iterations(train, start, machine, wishes, batch)
    warmup = min(iterations // 10, _MOST_WARMUP)
    epochs = iterations * batch / train.num_images
    return [
        *keys,
        Derived("SOLVER.MAX_ITER", iterations, f"{why}; {epochs:,.{int(epochs < 10)}f} epochs"),
        _rate(start, batch, iterations),
        Derived(
            "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "falls to 0, without steps to choose"
        ),
        Derived("SOLVER.STEPS", _steps(iterations), "for WarmupMultiStepLR instead of the cosine"),
        Derived("SOLVER.WARMUP_ITERS", warmup, "a tenth of the iterations"),
        *_evaluation(val, iterations, batch, wishes),
        _average(iterations),
    ]


def _batch(
    start: Start,
    machine: Machine,
    wishes: Wishes,
    image_bytes: float,
    fixed_bytes: float,
) -> tuple[int, list[Derived]]:
    room = images_in_memory(machine.memory, image_bytes, fixed_bytes)
    usual = 4 if start.is_small else 16 if machine.has_gpu else 2
    at_once = usual if room is None else max(1, min(usual, room))
    batch = wishes.batch or at_once
    why = f"{usual} is usual for this model" if batch == usual else "what fits into memory"
    if machine.memory is not None:
        needed = (fixed_bytes + batch * image_bytes) / 1e9
        why += f": about {needed:.1f} of the {machine.memory / 1e9:.1f} GB at hand"
    parts = 1
    if wishes.batch:
        why = "--batch"
        while room is not None and parts < batch and ceil(batch / parts) > max(room, 1):
            parts += 1
    about_parts = "the whole batch at once" if parts == 1 else "the batch does not fit at once"
    needs_less = room == 0
    saved = ("backbone", "box_heads", "mask_heads") if needs_less else ()
    about_saved = "not even an image fits otherwise" if needs_less else "memory suffices without"
    return batch, [
        Derived("SOLVER.IMS_PER_BATCH", batch, why),
        Derived("SOLVER.REFERENCE_WORLD_SIZE", 0, "the schedule is made for this machine"),
        Derived("SOLVER.ACCUMULATE_STEPS", parts, about_parts),
        Derived("MODEL.QUERYINST.ACTIVATION_CHECKPOINTING", saved, about_saved),
    ]


def _iterations(
    train: DataStatistics, start: Start, machine: Machine, wishes: Wishes, batch: int
) -> tuple[int, str]:
    num = train.num_images
    if wishes.iterations:
        return wishes.iterations, "--iterations"
    if wishes.epochs:
        return max(1, ceil(wishes.epochs * num / batch)), f"--epochs {wishes.epochs}"
    images = counted(num, "image")
    if start.is_small and start.kind == "none":
        views, why = 3200 + 2.8 * num, f"random weights and {images}"
    elif start.is_small:
        views, why = 1600 + 1.4 * num, f"trained weights and {images}"
    else:
        epochs = min(max(12 * sqrt(5000 / num), 6.0), 120.0)
        views, why = max(num * epochs, 4800), f"trained weights and {images}"
        if not machine.has_gpu:
            views, why = views / 4, f"{why}, a quarter of it on the CPU, which takes long"
    return max(1, ceil(views / batch)), why


def _rate(start: Start, batch: int, iterations: int) -> Derived:
    rate, why = start.base_lr, f"{start.base_lr:g} suits a batch of {start.batch}"
    if start.kind == "none" and iterations < _SHORT:
        rate, why = 2 * rate, f"{why}, twice as much for so few iterations"
    if batch != start.batch:
        rate, why = rate * sqrt(batch / start.batch), f"{why}; by the root of the batch"
    return Derived("SOLVER.BASE_LR", float(f"{rate:.3g}"), why)


def _steps(iterations: int) -> tuple[int, ...]:
    """After 2 of 3 and 8 of 9 parts, as in the published schedules."""
    steps = {2 * iterations // 3, 8 * iterations // 9}
    return tuple(sorted(step for step in steps if 0 < step < iterations))


def _evaluation(val: DataStatistics, iterations: int, batch: int, wishes: Wishes) -> list[Derived]:
    times = min(max(int(iterations * batch / val.num_images), 2), _MOST_EVALUATIONS)
    period = max(1, ceil(iterations / times))
    if wishes.eval_period is not None:
        period = wishes.eval_period or iterations
    times = ceil(iterations / period)
    patience, about = (
        max(3, ceil(_PATIENCE * times)),
        "evaluations in a row that are not better end it",
    )
    if times < 2:
        patience, about = 0, "nothing is evaluated before the end"
    return [
        Derived("TEST.EVAL_PERIOD", period, counted(times, "evaluation")),
        Derived("SOLVER.CHECKPOINT_PERIOD", period, "as often as it is evaluated"),
        Derived("SOLVER.CHECKPOINT_KEEP", 1, "--resume needs the last one"),
        Derived("SOLVER.CHECKPOINT_MINUTES", 30.0, "no more than that is lost"),
        Derived(
            "TEST.EARLY_STOPPING_PATIENCE",
            patience,
            about,
        ),
        Derived("TEST.VALIDATION_LOSS", True, "shows beside AP whether the model overfits"),
    ]


def _average(iterations: int) -> Derived:
    decay = min(max(1 - 20 / iterations, 0.9), 0.9998)
    return Derived(
        "SOLVER.EMA.DECAY", round(decay, 4), "the average spans a twentieth of the iterations"
    )
