"""Segmentation of a pair of parts, such as the eyes, by a generator's components."""
