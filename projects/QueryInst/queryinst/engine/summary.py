"""What a training is, on one screen before its first step."""

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from ..data.train_loader import count_objects
from ..wording import counted
from .amp import training_precision


def describe_training(trainer) -> str:
    """Data, model, weights, schedule, device and folder, in a line each.

    Args:
        trainer: a `Trainer` that has resumed or loaded its weights.
    """
    cfg = trainer.cfg
    solver, start = cfg.SOLVER, trainer.start_iter
    num = sum(parameter.numel() for parameter in trainer.checkpointer.model.parameters())
    weights = cfg.MODEL.WEIGHTS or "none: random"
    average = f", averaged with decay {solver.EMA.DECAY:g}" if solver.EMA.ENABLED else ""
    processes = comm.get_world_size()
    lines = {
        "data": _training_data(trainer),
        "evaluation": _evaluation_data(cfg),
        "model": f"{cfg.MODEL.META_ARCHITECTURE} with {num / 1e6:.1f} M parameters{average}",
        "weights": f"resumed after {start} iterations" if start else weights,
        "schedule": f"{counted(trainer.max_iter, 'iteration')} of "
        f"{counted(solver.IMS_PER_BATCH, 'image')}, "
        f"{solver.OPTIMIZER} at {solver.BASE_LR:g}{_epochs(trainer)}",
        "device": f"{cfg.MODEL.DEVICE}, {training_precision(cfg)}"
        + (f", {processes} processes" if processes > 1 else ""),
        "output": cfg.OUTPUT_DIR + ", with the whole log and configuration in log.txt",
    }
    return "Training\n" + "\n".join(f"  {name:11}{line}" for name, line in lines.items() if line)


def _training_data(trainer) -> str:
    names = ", ".join(trainer.cfg.DATASETS.TRAIN)
    loader, classes = trainer.data_loader, trainer.meta["thing_classes"]
    if not hasattr(loader, "num_objects"):  # of the user's own
        return names
    some = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    number = counted(len(classes), "class", "classes")
    kinds = f" of {number} ({some})" if classes else ""
    return f"{names}: {_images(loader.num_images, loader.num_objects)}{kinds}"


def _epochs(trainer) -> str:
    num_images = getattr(trainer.data_loader, "num_images", 0)
    taken = trainer.max_iter * trainer.cfg.SOLVER.IMS_PER_BATCH
    return f"; {taken / num_images:.3g} epochs" if num_images else ""


def _evaluation_data(cfg) -> str:
    if not cfg.DATASETS.TEST:
        return "none; DATASETS.TEST is empty"
    period = cfg.TEST.EVAL_PERIOD
    when = f"every {period} iterations" if period else "at the end"
    return "; ".join(map(_count, cfg.DATASETS.TEST)) + f"; {when}"


def _count(name: str) -> str:
    """Of other kinds than COCO's only the name: reading them can take minutes."""
    if MetadataCatalog.get(name).get("evaluator_type", "coco") != "coco":
        return name
    dicts = DatasetCatalog.get(name)
    if not isinstance(dicts, list):
        return name
    return f"{name}: {_images(len(dicts), count_objects(dicts))}"


def _images(images: int, objects: int) -> str:
    return f"{counted(images, 'image')}, {counted(objects, 'object')}"
