"""What may vary: the architecture as a value, and the grammar of a search space. No torch in here."""
