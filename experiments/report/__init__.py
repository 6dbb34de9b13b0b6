"""One page about finished runs: the observations, the figures and the commands."""
