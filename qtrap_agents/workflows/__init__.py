"""Workflows: LangGraph graphs that answer a task in hops."""
