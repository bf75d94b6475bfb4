"""What the engine runs on: device, kernels, memory, machine, progress."""
