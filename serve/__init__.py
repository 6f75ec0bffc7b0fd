"""The budget-forcing deployment graph."""
