"""One page a study: the verdict, the table, plots, and where each number comes from; a file that needs nothing else."""
