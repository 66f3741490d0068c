"""Arms from a user's own checkpoint: `qtrap quantize`. llm-compressor works in an environment of its own (see `environment`)."""
