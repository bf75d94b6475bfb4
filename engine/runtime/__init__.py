"""What the engine runs on: device, kernels, memory, progress; what is recorded of it."""
