"""What is learned: data, network, loss and scores of each task; see `base`."""
