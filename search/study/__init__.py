"""Who runs what, when: a Hydra sweeper whose workers claim trials from an Optuna storage and never wait for a batch."""
