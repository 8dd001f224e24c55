"""What many GPUs need: memory, loader, all-reduce, checkpoints; the tables of docs/scaling.md."""
