"""The harness around `xvol`: spaces, studies, trials, the ledger and the tables. Importing it is cheap (no torch)."""
