"""What every test shares: one torch thread, no tracker account, no user configuration."""

import os
import signal

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

# A run in the background (`make test &`, nohup) ignores these, and so would every process that a test wants to stop.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

settings.register_profile("quick", max_examples=10)  # of `make test`; `make test-all` tries as many as a test says
