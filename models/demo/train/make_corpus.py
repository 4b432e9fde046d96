"""Makes the corpus: random molecules, one RDKit conformer each, one line of text each.

    python make_corpus.py --out CORPUS

writes CORPUS/train.txt and CORPUS/heldout.txt. No molecule is in both, and none twice: graphs are
distinct by canonical SMILES before stereo marks are given, so mirror images do not part either.
"""

import argparse
import multiprocessing
import random
from pathlib import Path

import numpy as np
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem

from conformer_text import line_of, smiles_of, CONFORMER_CLOSE, CONFORMER_OPEN
from random_molecules import random_smiles

# Every number then has one digit before the point, and every point the same number of tokens.
COORDINATE_LIMIT = 10.0
# Sine of the smallest angle at which three atoms still give a plane.
COLLINEAR = 0.05


def frame_of_first_atoms(points):
    """Turns and moves a conformer so that its text is a function of its shape alone.

    The first atom goes to the origin, the second onto +x, and the first atom off that line into the
    xy plane at y > 0. Handedness is kept, so chirality is too.
    points: [atoms, 3] -> [atoms, 3], angstrom.
    """
    points = points - points[0]
    x = points[1] / np.linalg.norm(points[1])
    away = points - np.outer(points @ x, x)
    distance = np.linalg.norm(away, axis=1)
    off_line = np.flatnonzero(distance > COLLINEAR * np.maximum(np.linalg.norm(points, axis=1), 1.0))
    if len(off_line):
        y = away[off_line[0]] / distance[off_line[0]]
    else:
        y = np.linalg.svd(x[None])[2][1]
    return points @ np.stack([x, y, np.cross(x, y)], axis=1)


def embed(flat_smiles, seed):
    """-> (canonical isomeric SMILES, points [atoms, 3] in its order), or None.

    The conformer is embedded with its hydrogens, which are then taken away; the stereo marks are the
    ones that the embedded atoms show.
    """
    molecule = Chem.AddHs(Chem.MolFromSmiles(flat_smiles))
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed = seed
    parameters.maxIterations = 5
    if AllChem.EmbedMolecule(molecule, parameters) != 0:
        return None
    hydrogens = Chem.RemoveHsParameters()
    hydrogens.removeDefiningBondStereo = True
    molecule = Chem.RemoveHs(molecule, hydrogens)
    Chem.AssignStereochemistryFrom3D(molecule)
    smiles = Chem.MolToSmiles(molecule)
    if Chem.CanonSmiles(smiles) != smiles:
        return None
    order = [int(atom) for atom in molecule.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"]]
    points = molecule.GetConformer().GetPositions()[order]
    return smiles, frame_of_first_atoms(points)


def line_for(task):
    flat_smiles, seed = task
    embedded = embed(flat_smiles, seed)
    if embedded is None:
        return None
    smiles, points = embedded
    if np.abs(points).max() >= COORDINATE_LIMIT:
        return None
    line = line_of(smiles, points)
    conformer = line.split(CONFORMER_OPEN)[1].removesuffix(CONFORMER_CLOSE)
    if smiles_of(conformer) != smiles:
        raise ValueError(f"{conformer} does not lead back to {smiles}")
    return line


def distinct_graphs(count, seed):
    rng = random.Random(seed)
    seen = {}
    while len(seen) < count:
        smiles = random_smiles(rng)
        if smiles is not None:
            seen.setdefault(smiles)
    return list(seen)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--graphs", type=int, default=120_000)
    arguments.add_argument("--heldout", type=int, default=2_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    options = arguments.parse_args()

    RDLogger.DisableLog("rdApp.*")
    options.out.mkdir(parents=True, exist_ok=True)
    graphs = distinct_graphs(options.graphs, options.seed)
    random.Random(options.seed).shuffle(graphs)
    print(f"{len(graphs)} distinct graphs", flush=True)
    tasks = [(smiles, options.seed + index) for index, smiles in enumerate(graphs)]
    written = 0
    with (
        multiprocessing.Pool(options.processes) as pool,
        open(options.out / "heldout.txt", "w") as heldout,
        open(options.out / "train.txt", "w") as train,
    ):
        for index, line in enumerate(pool.imap(line_for, tasks, chunksize=64)):
            if index % 10_000 == 0:
                print(f"{index} embedded, {written} lines", flush=True)
            if line is not None:
                print(line, file=heldout if written < options.heldout else train)
                written += 1
    print(f"{options.heldout} lines held out, {written - options.heldout} to train on")


if __name__ == "__main__":
    main()
