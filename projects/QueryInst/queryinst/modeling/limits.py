"""What the sizes and probabilities of the modules must be, with the keys that set them."""

_AT_LEAST = {
    "num_queries": (1, "MODEL.QUERYINST.NUM_QUERIES"),
    "num_stages": (1, "MODEL.QUERYINST.NUM_STAGES"),
    "num_classes": (1, "MODEL.ROI_HEADS.NUM_CLASSES"),
    "ffn_dim": (1, "MODEL.QUERYINST.FFN_DIM"),
    "dynamic_dim": (1, "MODEL.QUERYINST.DYNAMIC_DIM"),
    "num_cls_fcs": (0, "MODEL.QUERYINST.NUM_CLS_FCS"),
    "num_reg_fcs": (0, "MODEL.QUERYINST.NUM_REG_FCS"),
    "num_conv": (0, "MODEL.ROI_MASK_HEAD.NUM_CONV"),
    "conv_dim": (1, "MODEL.ROI_MASK_HEAD.CONV_DIM"),
    "max_detections": (1, "TEST.DETECTIONS_PER_IMAGE"),
}


def check_sizes(**sizes: int) -> None:
    """Raise a ValueError with name, value, limit and key if a size is too small."""
    for name, size in sizes.items():
        limit, key = _AT_LEAST[name]
        if size < limit:
            raise ValueError(f"{name}={size} must be >= {limit}; set {key}")


def check_heads(embed_dim: int, num_heads: int) -> None:
    """Raise a ValueError if the channels cannot be shared by the heads of the self-attention."""
    if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
        raise ValueError(
            f"{embed_dim=} must be a positive multiple of {num_heads=}; "
            "set MODEL.QUERYINST.EMBED_DIM or NUM_HEADS"
        )


def check_probabilities(dropout: float, prior_prob: float) -> None:
    """Raise a ValueError if one of them is not a probability that can be used."""
    if not 0 <= dropout < 1:
        raise ValueError(f"{dropout=} must lie in [0, 1); set MODEL.QUERYINST.DROPOUT")
    if not 0 < prior_prob < 1:
        raise ValueError(f"{prior_prob=} must lie in (0, 1); set MODEL.QUERYINST.PRIOR_PROB")
