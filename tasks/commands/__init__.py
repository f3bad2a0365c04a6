"""The sub-commands of the blockzoo command that are not training."""
