"""qtrap_agents: find the hop where a quantised agent chain turns a tiny error into logic collapse."""

__version__ = "0.1.0"
