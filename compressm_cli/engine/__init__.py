"""The training loop and what it needs: optimizer, batches, evaluation, the state of a run, its view."""
