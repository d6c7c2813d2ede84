"""Losses, the image buffer, the step, and the run around it."""
