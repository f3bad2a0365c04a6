"""The commands of `blockzoo`: training, evaluation, export and maintenance."""
