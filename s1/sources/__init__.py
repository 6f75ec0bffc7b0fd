"""Where questions come from: generated tasks, files, data sets of a hub. Everything here ends in QUESTIONS rows."""
