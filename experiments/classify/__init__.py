"""Image classification by a sum of branches (section 6)."""
