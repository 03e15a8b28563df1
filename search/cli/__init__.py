"""Commands beside `xvol-search`."""
