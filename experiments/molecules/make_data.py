"""Makes the study's data: molecules, their conformers, and their texts in two formats of numbers.

    python make_data.py --out data

writes

- data/fixed/train.txt and heldout.txt: one line a molecule, as the demo model's corpus has them, with four
  decimals in every number;
- data/stripped/train.txt and heldout.txt: the same lines with the zeros at a number's end left out (`1.5`,
  `0.0`), as the published study had them;
- data/references.json: for each of the first held-out molecules several conformers of its own, made anew
  with ETKDGv3: what generated geometry is compared with, and as many others with another seed, which say
  how near RDKit itself comes.

Work that is already there is not done again. The demo model was trained on another draw of molecules.
"""

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem

import demo_train  # noqa: F401  (finds the modules below)
from conformer_text import CONFORMER_OPEN, SMILES_CLOSE, SMILES_OPEN

SEED = 2
GRAPHS = 80_000
HELDOUT = 2_000
REFERENCE_MOLECULES = 1_000
REFERENCE_CONFORMERS = 10
# Of a number with four decimals: what is kept without the zeros at its end, and those zeros.
TRAILING_ZEROS = re.compile(r"(\.\d+?)0+(?!\d)")


def strip_zeros(line):
    """The same line with `1.5000` as `1.5` and `0.0000` as `0.0`. The prompt holds no such number."""
    prompt, conformer = line.split(CONFORMER_OPEN)
    return prompt + CONFORMER_OPEN + TRAILING_ZEROS.sub(r"\1", conformer)


def write(path, text):
    beside = path.with_suffix(".new")
    beside.write_text(text)
    os.replace(beside, path)


def conformers_of(task):
    """(SMILES, seed) -> points of its heavy atoms in the SMILES's order, [conformers, atoms, 3]."""
    smiles, seed = task
    molecule = Chem.MolFromSmiles(smiles)
    with_hydrogens = Chem.AddHs(molecule)
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed = seed
    AllChem.EmbedMultipleConfs(with_hydrogens, REFERENCE_CONFORMERS, parameters)
    # Hydrogens come after the atoms of the SMILES.
    atoms = molecule.GetNumAtoms()
    return [
        [[round(value, 4) for value in point] for point in conformer.GetPositions()[:atoms].tolist()]
        for conformer in with_hydrogens.GetConformers()
    ]


def make_references(heldout, processes):
    smiles = [line.removeprefix(SMILES_OPEN).split(SMILES_CLOSE)[0] for line in heldout[:REFERENCE_MOLECULES]]
    with multiprocessing.Pool(processes) as pool:
        references = pool.map(conformers_of, [(one, SEED) for one in smiles], chunksize=16)
        controls = pool.map(conformers_of, [(one, SEED + 1) for one in smiles], chunksize=16)
    return [
        {"smiles": one, "references": theirs, "controls": others}
        for one, theirs, others in zip(smiles, references, controls)
    ]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=Path("data"))
    arguments.add_argument("--graphs", type=int, default=GRAPHS)
    arguments.add_argument("--heldout", type=int, default=HELDOUT)
    arguments.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    options = arguments.parse_args()

    RDLogger.DisableLog("rdApp.*")
    fixed, stripped = options.out / "fixed", options.out / "stripped"
    done = options.out / "corpus.done"
    if not done.exists():
        command = [sys.executable, demo_train.FOLDER / "make_corpus.py", "--out", fixed, "--seed", str(SEED)]
        command += ["--graphs", str(options.graphs), "--heldout", str(options.heldout)]
        subprocess.run([*command, "--processes", str(options.processes)], check=True)
        done.touch()
    stripped.mkdir(exist_ok=True)
    for name in ("train.txt", "heldout.txt"):
        lines = (fixed / name).read_text().splitlines()
        write(stripped / name, "".join(strip_zeros(line) + "\n" for line in lines))
    references = options.out / "references.json"
    if not references.exists():
        heldout = (fixed / "heldout.txt").read_text().splitlines()
        write(references, json.dumps(make_references(heldout, options.processes)) + "\n")
    print(f"the data is in {options.out}")


if __name__ == "__main__":
    main()
