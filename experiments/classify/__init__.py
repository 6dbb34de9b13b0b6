"""Image classification by a sum of slim ResNets (section 6)."""
