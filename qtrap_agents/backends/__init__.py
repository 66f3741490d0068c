"""Backends: what answers a hop. `open_arm` in `qtrap_agents.backends.factory` picks one."""
