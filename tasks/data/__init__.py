"""Lightning data modules and the real data sets that ship with the package."""
