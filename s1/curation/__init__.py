"""Choose what is worth learning from: quality, decontamination, difficulty, diversity."""
