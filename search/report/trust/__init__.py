"""Whether a short budget ranks the arms as a long one does."""
