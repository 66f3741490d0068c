"""Experiments on a stored run: an arm is served again, and what it says is appended to the run as evidence."""
