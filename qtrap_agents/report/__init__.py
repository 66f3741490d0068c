"""What a user reads: comparisons, single traces, lists and health checks, as rich tables and as JSON.

Every verb has a function that collects a record, one that renders it to a console, and one that gives it as JSON types.
"""
