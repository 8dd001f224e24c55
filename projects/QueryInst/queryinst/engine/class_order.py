"""Evaluation of a model whose classes have other places, or names, than those of the data set."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from torch import nn

logger = logging.getLogger(__name__)


def class_names_of(model: nn.Module) -> tuple[str, ...]:
    """The names that `QueryInstCheckpointer` left with a model, DDP's too; () if there are none."""
    return tuple(getattr(getattr(model, "module", model), "thing_classes", ()))


def warn_of_other_classes(known: Sequence[str], names: Sequence[str]) -> None:
    """Say if a training starts from a model with as many classes, but of other names.

    Args:
        known: of the weights' classes; empty if they have none, or another number.
        names: of the data set's.
    """
    known, names = list(known), list(names)
    different = [i for i, pair in enumerate(zip(known, names)) if len({*pair}) > 1]
    if not different or len(known) != len(names):
        return
    first = different[0]
    places = f"class {first} is {known[first]!r} in the weights and {names[first]!r} in the data"
    if sorted(known) == sorted(names):
        logger.warning(
            f"{places}: the same names in another order. The layers for classes are kept, so that"
            " training first has to learn the order; give the data's categories that of the weights"
        )
        return
    logger.warning(
        f"{places}, and {len(different)} of {len(names)} names differ. The layers for classes are"
        " kept, since their number is the same"
    )


def by_class_name(
    cfg: CfgNode,
    model: nn.Module,
    evaluators: Sequence[DatasetEvaluator] | DatasetEvaluator | None,
    build_evaluator: Callable[[CfgNode, str], DatasetEvaluator],
) -> Sequence[DatasetEvaluator] | DatasetEvaluator | None:
    """What `DefaultTrainer.test` takes as `evaluators`, each a `ByClassName` if names are known.

    Args:
        evaluators: for the data sets of DATASETS.TEST; None for those of `build_evaluator`.
    """
    names = class_names_of(model)
    if not names:
        return evaluators
    if isinstance(evaluators, DatasetEvaluator):
        evaluators = [evaluators]
    tests = cfg.DATASETS.TEST
    built = evaluators or [build_evaluator(cfg, dataset_name) for dataset_name in tests]
    return [ByClassName(*pair, names) for pair in zip(built, tests, strict=True)]


class ByClassName(DatasetEvaluator):
    """An evaluator that gets classes by the data set's numbers, whatever the model's are.

    Where both have the same names in another order, predictions get the data set's numbers. Where
    names differ, they stay as they are, and a warning says so.
    """

    def __init__(self, evaluator: DatasetEvaluator, dataset_name: str, model_names: Sequence[str]):
        """
        Args:
            model_names: of the model's classes, in its order; if empty, nothing is known of them.
        """
        self._evaluator = evaluator
        self._dataset_name = dataset_name
        self._model_names = list(model_names)
        self._numbers: torch.Tensor | None = None

    def reset(self) -> None:
        """Compare the names; the data set has been loaded by now, which can set them."""
        names = list(MetadataCatalog.get(self._dataset_name).get("thing_classes") or ())
        self._numbers = self._compare(names) if names and self._model_names else None
        self._evaluator.reset()

    def _compare(self, names: list[str]) -> torch.Tensor | None:
        different = [i for i, pair in enumerate(zip(self._model_names, names)) if len({*pair}) > 1]
        if not different:
            return None
        first = different[0]
        places = (
            f"class {first} is {self._model_names[first]!r} in the checkpoint and"
            f" {names[first]!r} in the data set {self._dataset_name!r}"
        )
        if sorted(self._model_names) == sorted(names) and len(set(names)) == len(names):
            logger.warning(
                f"{places}: the same names in another order, so predictions get the data set's"
            )
            return torch.tensor([names.index(name) for name in self._model_names])
        logger.warning(
            f"{places}, and {len(different)} of {len(names)} names differ: classes are compared by"
            " their numbers, so AP is of little use unless the names mean the same"
        )
        return None

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """As the evaluator's."""
        if self._numbers is not None:
            outputs = [{**x, "instances": self._renumber(x["instances"])} for x in outputs]
        self._evaluator.process(inputs, outputs)

    def _renumber(self, instances: Instances) -> Instances:
        assert self._numbers is not None
        classes = instances.pred_classes
        fields = {**instances.get_fields(), "pred_classes": self._numbers.to(classes)[classes]}
        return Instances(instances.image_size, **fields)

    def evaluate(self) -> Any:
        """As the evaluator's."""
        return self._evaluator.evaluate()
