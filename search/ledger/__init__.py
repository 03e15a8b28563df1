"""What is written down: `runs/` is the truth, W&B and the Optuna storage mirror it. No torch in here."""

import time

# seconds since the epoch, before operators are loaded: code that is edited later is not what runs
STARTED = time.time()
