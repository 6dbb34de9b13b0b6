"""When branches fall silent: decay, rate, depth and M on real images."""
