"""Fields: operator learning, Darcy and Navier-Stokes flows, files of fields."""
