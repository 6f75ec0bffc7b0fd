"""Supervised fine-tuning on traces: examples, order of the data, schedule, and what a run would cost."""
