"""Applications of the decomposition of an image, scored by a ground truth."""
