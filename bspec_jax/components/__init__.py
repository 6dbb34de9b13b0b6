"""Decompositions of images, f = R + sum_k v_k: measured, recombined and segmented.

Everything here takes stacks of components `[M, N, H, W, C]` and needs no network.
"""
