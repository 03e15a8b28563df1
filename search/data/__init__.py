"""Images for a trial: fetched once, checked, kept as uint8 tensors, split by a seed and augmented in batches by torch.

Import the submodules (`config` needs no torch): `config.DataConfig` -> `load.load_data` -> `batches.training_batches`.
"""
