"""Small organic molecules as random valid graphs.

A molecule starts from one atom or an aromatic ring, grows by random atoms where valence is free, may
close one ring, and has some of its bonds made double or triple. RDKit's sanitisation has the last word.
"""

from rdkit import Chem

VALENCE = {"C": 4, "N": 3, "O": 2, "S": 2, "F": 1, "Cl": 1, "Br": 1}
ELEMENT_WEIGHTS = {"C": 64, "N": 13, "O": 13, "F": 4, "S": 3, "Cl": 2, "Br": 1}
# How often a size is drawn. Small sizes have few molecules, which are soon all found.
SIZE_WEIGHTS = {3: 2, 4: 3, 5: 4, 6: 5, 7: 5, 8: 5, 9: 4}
AROMATIC_START = 0.3
RING_CLOSURE = 0.35
RING_SIZES = range(3, 7)


class Graph:
    """Atoms and bonds under construction, with the valence that each atom has left."""

    def __init__(self):
        self.elements = []
        self.free = []
        self.orders = {}

    def add_atom(self, element):
        self.elements.append(element)
        self.free.append(VALENCE[element])
        return len(self.elements) - 1

    def raise_bond(self, a, b, by=1):
        bond = (min(a, b), max(a, b))
        self.orders[bond] = self.orders.get(bond, 0) + by
        self.free[a] -= by
        self.free[b] -= by

    def open_atoms(self):
        return [atom for atom, free in enumerate(self.free) if free > 0]

    def distances_from(self, start):
        """Bonds between `start` and every atom."""
        distance = {start: 0}
        frontier = [start]
        while frontier:
            atom = frontier.pop(0)
            for a, b in self.orders:
                if atom in (a, b):
                    other = a + b - atom
                    if other not in distance:
                        distance[other] = distance[atom] + 1
                        frontier.append(other)
        return distance

    def to_molecule(self):
        """A sanitised RDKit molecule, or None where RDKit refuses it."""
        molecule = Chem.RWMol()
        for element in self.elements:
            molecule.AddAtom(Chem.Atom(element))
        kinds = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
        for (a, b), order in self.orders.items():
            molecule.AddBond(a, b, kinds[order])
        failed = Chem.SanitizeMol(molecule, catchErrors=True)
        return None if failed else molecule


def add_aromatic_ring(graph, rng, size):
    """Six atoms of C and N, or five with one of N, O, S that brings two electrons."""
    elements = ["C" if rng.random() < 0.8 else "N" for _ in range(size)]
    if size == 5:
        elements[0] = rng.choice(["N", "O", "S"])
    ring = [graph.add_atom(element) for element in elements]
    for index, atom in enumerate(ring):
        graph.raise_bond(atom, ring[(index + 1) % size])
    first = 0 if size == 6 else 1
    for index in range(first, size, 2):
        if index + 1 < size:
            graph.raise_bond(ring[index], ring[index + 1])


def close_ring(graph, rng):
    start = rng.choice(graph.open_atoms() or [0])
    distances = graph.distances_from(start)
    ends = [atom for atom in graph.open_atoms() if distances[atom] + 1 in RING_SIZES]
    if ends and graph.free[start] > 0:
        graph.raise_bond(start, rng.choice(ends))


def is_plausible(molecule):
    """Leaves out what no chemist would draw and few force fields can place: heteroatoms bonded to
    each other outside aromatic rings, triple or cumulated bonds inside rings, and rings of three or
    four atoms on an aromatic bond."""
    for bond in molecule.GetBonds():
        ends = bond.GetBeginAtom(), bond.GetEndAtom()
        if not bond.GetIsAromatic() and all(atom.GetSymbol() != "C" for atom in ends):
            return False
        if bond.IsInRing() and bond.GetBondType() == Chem.BondType.TRIPLE:
            return False
        if bond.GetIsAromatic() and (bond.IsInRingSize(3) or bond.IsInRingSize(4)):
            return False
    return all(
        sum(bond.GetBondType() == Chem.BondType.DOUBLE for bond in atom.GetBonds()) < 2
        for atom in molecule.GetAtoms()
        if atom.IsInRing()
    )


def random_smiles(rng):
    """The canonical SMILES of one random molecule, without stereo marks, or None if the draw failed."""
    graph = Graph()
    size = rng.choices(list(SIZE_WEIGHTS), SIZE_WEIGHTS.values())[0]
    rings = [ring for ring in (5, 6) if ring <= size]
    if rings and rng.random() < AROMATIC_START:
        add_aromatic_ring(graph, rng, rng.choice(rings))
    else:
        graph.add_atom("C")

    while len(graph.elements) < size:
        places = graph.open_atoms()
        if not places:
            return None
        element = rng.choices(list(ELEMENT_WEIGHTS), ELEMENT_WEIGHTS.values())[0]
        # An end atom grows as often as all others together: chains as well as bushes.
        place = places[-1] if rng.random() < 0.4 else rng.choice(places)
        graph.raise_bond(place, graph.add_atom(element))

    if rng.random() < RING_CLOSURE:
        close_ring(graph, rng)
    for _ in range(rng.choices([0, 1, 2, 3], [4, 4, 2, 1])[0]):
        bonds = [(a, b) for a, b in graph.orders if graph.free[a] > 0 and graph.free[b] > 0]
        if bonds:
            graph.raise_bond(*rng.choice(bonds))

    molecule = graph.to_molecule()
    if molecule is None or not is_plausible(molecule):
        return None
    return Chem.MolToSmiles(molecule)
