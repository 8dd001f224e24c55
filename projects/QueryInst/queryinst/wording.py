"""Words of messages."""


def counted(number: int, what: str, plural: str = "") -> str:
    """Such as "1 image" or "2,000 images".

    Args:
        plural: where it is more than an "s" at the end.
    """
    return f"{number:,} {what if number == 1 else plural or f'{what}s'}"
