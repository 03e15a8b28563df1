"""Where a study is kept, with patience for a storage that goes away, and locks that die with their holder."""
