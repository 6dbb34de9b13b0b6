"""Toy 1 and Toy 2: Figures 2, 3 and 4, and a phase diagram."""
