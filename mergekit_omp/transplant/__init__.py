"""One merge: reading its config, planning its rows, the graph's tasks, the output directory,
the log."""
