"""A merge: its config, methods, the plan of rows, graph tasks, the output directory, the log."""
