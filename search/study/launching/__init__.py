"""Workers and trials as processes: the local launcher, a trial as a Hydra job, GPUs and cores, signals, time limits."""
