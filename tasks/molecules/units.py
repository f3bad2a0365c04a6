"""Units of energies, lengths and stresses, and constants of nature, for models that compute in eV and Å."""

__all__ = ["AKMA", "BOLTZMANN", "ENERGY_UNITS", "GPA", "LENGTH_UNITS", "STRESS_UNITS"]

AKMA = 0.0096485332
"""Å/fs² that 1 eV/Å gives to a mass of 1 u."""

BOLTZMANN = 8.617333262e-5
"""eV/K."""

GPA = 160.21766208
"""GPa in 1 eV/Å³."""

ENERGY_UNITS = {
    "eV": 1.0,
    "meV": 1e-3,
    "Hartree": 27.211386245988,
    "Rydberg": 13.605693122994,
    "kcal/mol": 0.0433641042418,
    "kJ/mol": 0.0103642696562,
}
"""eV in each unit of energy (CODATA 2018)."""

LENGTH_UNITS = {"Angstrom": 1.0, "nm": 10.0, "Bohr": 0.529177210903}
"""Å in each unit of length."""

STRESS_UNITS = {"GPa": 1 / GPA, "kbar": 0.1 / GPA, "bar": 1e-4 / GPA}
"""eV/Å³ in each unit of stress that is not an energy by a volume."""
