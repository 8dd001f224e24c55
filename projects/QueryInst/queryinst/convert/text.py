"""What a conversion read and wrote, for a terminal."""

from .convert_checkpoint import Conversion


def conversion_text(source: str, target: str, conversion: Conversion) -> str:
    """Both files' layouts and digests, and the tensors of the written one.

    Args:
        source, target: as given to `convert_checkpoint`.
    """
    lines = [f"{source}: {conversion.layout}", f"  sha256 {conversion.source_digest}"]
    lines += [f"  {line}" for line in (conversion.coverage, *conversion.notes)]
    lines += [f"{target}:", f"  sha256 {conversion.target_digest}", ""]
    lines.append(f"{'part':20} {'tensors':>8} {'parameters':>12}  dtypes")
    for group in conversion.groups:
        dtypes = ", ".join(group.dtypes)
        lines.append(f"{group.name:20} {group.num_tensors:8} {group.num_parameters:12,}  {dtypes}")
    lines.append("")
    lines += [
        f"{kind.num_tensors:4} x {kind.name} {kind.shape} {kind.dtype}" for kind in conversion.kinds
    ]
    return "\n".join(lines)
