"""One of the paper's own settings as a single command, on an accelerator."""
