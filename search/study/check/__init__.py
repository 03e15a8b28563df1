"""Whether a study's storage, ledger and tables agree, and what can be mended: what `xvol-check` does."""
