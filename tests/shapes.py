"""Masks of drawn eyes and a nose, for tests of pairs and of the segmentation."""

import numpy as np

HEIGHT, WIDTH = 40, 48


def ellipse(row, column, height, width):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 <= 1


EYES = ellipse(14, 14, 4, 5) | ellipse(15, 34, 4, 5)
NOSE = ellipse(26, 24, 4, 3)
