"""What is written down: `runs/` is the truth, W&B and the Optuna storage mirror it. No torch in here."""
