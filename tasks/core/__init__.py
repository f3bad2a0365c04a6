"""Code that all tasks, data modules and commands share."""
