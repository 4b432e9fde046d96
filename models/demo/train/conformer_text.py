"""The text a molecule is written as.

    [SMILES]CCO[/SMILES][CONFORMER][C]<0.0000,0.0000,0.0000>[C]<1.5167,0.0000,0.0000>[O]<...>[/CONFORMER]

The conformer part is the same SMILES, atom by atom in the same order, with bare atoms in brackets
(`C` -> `[C]`; `[C@@H]` stays) and `<x,y,z>` after every atom, in angstrom. Numbers are truncated, not
rounded, to four decimals, and a zero carries no sign. Taking the coordinates and the added brackets
away gives the SMILES again, which is what makes an answer checkable.
"""

import math
import re

import numpy as np

SMILES_OPEN, SMILES_CLOSE = "[SMILES]", "[/SMILES]"
CONFORMER_OPEN, CONFORMER_CLOSE = "[CONFORMER]", "[/CONFORMER]"

DECIMALS = 4
# Atoms that SMILES may write without brackets (Daylight's organic subset, and its aromatic forms).
BARE_ATOM = r"Cl|Br|[BCNOPSFI]|[bcnops]"
ATOM = re.compile(rf"\[[^\[\]]+\]|{BARE_ATOM}")
ADDED_BRACKETS = re.compile(rf"\[({BARE_ATOM})\]")
COORDINATE = re.compile(rf"-?\d+\.\d{{{DECIMALS}}}")
POINT = re.compile(r"<([^<>]*)>")


def format_coordinate(value):
    """A coordinate in angstrom, truncated toward zero to four decimals: -0.00009 -> "0.0000"."""
    units = math.trunc(value * 10**DECIMALS)
    sign = "-" if units < 0 else ""
    whole, fraction = divmod(abs(units), 10**DECIMALS)
    return f"{sign}{whole}.{fraction:0{DECIMALS}d}"


def conformer_of(smiles, points):
    """points: [atoms, 3], angstrom, in the order of the SMILES."""
    points = iter(points)

    def with_point(match):
        atom = match.group()
        wrapped = atom if atom.startswith("[") else f"[{atom}]"
        return f"{wrapped}<{','.join(format_coordinate(value) for value in next(points))}>"

    text = ATOM.sub(with_point, smiles)
    if next(points, None) is not None:
        raise ValueError(f"{smiles} has fewer atoms than there are points")
    return text


def prompt_of(smiles):
    return f"{SMILES_OPEN}{smiles}{SMILES_CLOSE}"


def line_of(smiles, points):
    """The whole text of one molecule. points: [atoms, 3], angstrom, in the order of the SMILES."""
    return f"{prompt_of(smiles)}{CONFORMER_OPEN}{conformer_of(smiles, points)}{CONFORMER_CLOSE}"


def smiles_of(conformer):
    """The SMILES that a conformer's text was made from."""
    return ADDED_BRACKETS.sub(r"\1", POINT.sub("", conformer))


def points_of(conformer):
    """[atoms, 3], float64. Raises ValueError on a number that is not strictly `-?\\d+\\.\\d{4}`, and
    on anything but one point directly after every atom."""
    points = []
    position = 0
    skeleton = POINT.sub("", conformer)
    if "<" in skeleton or ">" in skeleton:
        raise ValueError("a point is not closed")
    for point in POINT.finditer(conformer):
        before = conformer[position : point.start()]
        atoms = ATOM.findall(before)
        if len(atoms) != 1 or not before.endswith(atoms[0]):
            raise ValueError(f"{before!r} stands before a point, expected one atom at its end")
        numbers = point.group(1).split(",")
        if len(numbers) != 3 or not all(COORDINATE.fullmatch(number) for number in numbers):
            raise ValueError(f"{point.group()} is not a point")
        points.append([float(number) for number in numbers])
        position = point.end()
    if ATOM.search(conformer[position:]):
        raise ValueError("the last atom has no point")
    return np.array(points).reshape(-1, 3)
