"""What every task, data module and command shares."""
