"""Class transfer and image decomposition (section 7)."""
