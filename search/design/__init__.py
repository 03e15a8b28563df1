"""Ablation designs: which cells a study trains, in which order, against which controls. No torch in here."""
