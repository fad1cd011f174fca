"""What comes from outside: faults of libraries, other tools' files, strings on their way to a screen."""
