"""What all sides agree on: the plan, the wire, the store, the training loop, the run directory."""
