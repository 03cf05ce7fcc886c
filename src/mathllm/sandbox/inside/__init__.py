"""What runs in the child, before and around the kernel; see `__main__.py`."""
