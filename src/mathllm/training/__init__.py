"""Deep supervision: the trainer, its state, and what it is compared with."""
