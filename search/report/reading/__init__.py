"""From the folders of trials to one tidy, checked data frame."""
