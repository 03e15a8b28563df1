"""One trial: build, train, evaluate, fuse, measure, record."""
