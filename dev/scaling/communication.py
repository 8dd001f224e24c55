"""Bytes that the ranks exchange in a step, and the time that a ring takes for them by formula."""

from .tables import megabytes, table

# Bytes a second in one direction through the narrowest link of the ring, in practice about 0.8 of
# what is on the label. Nobody measured them here.
LINKS = {
    "25 Gbit/s Ethernet between nodes": 2.5e9,
    "100 Gbit/s between nodes": 10e9,
    "400 Gbit/s between nodes": 40e9,
    "NVLink within a node": 200e9,
}
LATENCY = 10e-6  # seconds of one of the ring's 2 (N - 1) steps
BUCKET_BYTES = 25e6  # DistributedDataParallel's bucket_cap_mb


def ring_seconds(num_bytes: float, ranks: int, bandwidth: float) -> float:
    """A ring all-reduce: each rank sends and receives 2 (N - 1) / N of the bytes.

    Args:
        bandwidth: bytes a second of the narrowest link.
    """
    steps = 2 * (ranks - 1)
    buckets = max(1, round(num_bytes / BUCKET_BYTES))
    return steps / ranks * num_bytes / bandwidth + steps * LATENCY * buckets


def links_table(num_bytes: int, ranks: tuple[int, ...]) -> str:
    headers = [f"{megabytes(num_bytes)} a step over", "GB/s", *(f"{n} ranks" for n in ranks)]
    rows = [
        [name, f"{bandwidth / 1e9:g}"]
        + [f"{1e3 * ring_seconds(num_bytes, n, bandwidth):.0f} ms" for n in ranks]
        for name, bandwidth in LINKS.items()
    ]
    return table(headers, rows)
