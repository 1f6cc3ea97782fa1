"""The benchmark: stacks of its own, load from ``wrk``, and the books audited after every run."""
