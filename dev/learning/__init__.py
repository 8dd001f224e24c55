"""What a model learns from little data in a given time: data sets, training runs, comparison."""
