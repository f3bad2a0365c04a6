"""Chemical elements."""

__all__ = ["MASSES", "SYMBOLS", "atomic_number"]

SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y "
    "Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os "
    "Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn "
    "Nh Fl Mc Lv Ts Og"
).split()
"""By atomic number; "X", for 0, is no element."""

MASSES = {1: 1.008, 6: 12.011, 7: 14.007, 8: 15.999}
"""Standard atomic weights of the elements of the packaged molecules, in u."""

_NUMBERS = {symbol.lower(): number for number, symbol in enumerate(SYMBOLS) if number}


def atomic_number(symbol: str) -> int:
    """The number of an element, by its symbol in any case.

    Raises:
        ValueError: There is no such element.
    """
    number = _NUMBERS.get(symbol.strip().lower())
    if number is None:
        raise ValueError(f"{symbol!r} is not a chemical element")
    return number
