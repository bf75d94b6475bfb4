"""What `benchmarks.kernel_speed` times: one file per operation."""
