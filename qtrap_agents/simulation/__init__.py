"""Error propagation beyond what was run: a model fitted to traces, Monte Carlo over any workflow, plans of mixed precision."""
