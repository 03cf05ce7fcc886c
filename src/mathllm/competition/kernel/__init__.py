"""A run of the kernel: from the gateway's problems to its answers, whatever happens on the way."""
