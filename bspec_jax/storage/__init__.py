"""Files, checkpoints and resumable training, and the errors that users can fix."""
