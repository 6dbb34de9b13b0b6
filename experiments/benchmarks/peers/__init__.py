"""The benchmarked computations in PyTorch; imported only where PyTorch is needed."""
