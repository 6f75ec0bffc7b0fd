"""Who writes the traces: one protocol, and a teacher for every way to come by them."""
