"""What `ray job submit` runs: one file per job, and the pipeline that runs them all."""
