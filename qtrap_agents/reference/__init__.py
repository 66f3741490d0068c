"""The shipped reference models: checkpoints, model card, and the code that trained and quantised them."""
