"""The slot for pooling, which the cascade and the mask heads have each."""

from collections.abc import Callable
from typing import cast

from ..modeling import QueryInst
from ..modeling.pooler import PoolLevels, RoIFeaturePooler


def replace_pool_levels(model: QueryInst, make: Callable[[PoolLevels], PoolLevels]) -> None:
    """Replace the function that pools RoIs, in every pooler of `model`.

    Args:
        make: takes the present function, which the new one may fall back to.
    """
    for branch in (model.cascade, model.mask_head):
        if branch is not None:
            pooler = cast(RoIFeaturePooler, branch.pooler)
            pooler.pool_levels = make(pooler.pool_levels)
