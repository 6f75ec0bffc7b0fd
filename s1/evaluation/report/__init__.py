"""The report of a run: figures, transcripts and numbers in one HTML file that needs nothing else."""
