"""What can be summed in a block: one file for each branch. `xvol/__init__.py` imports them, which registers them."""
