"""What holds state on a worker of the cluster."""
