"""The commands of `blockzoo`: training, evaluation, export, and what keeps the zoo in order."""
