"""Asks the trained model for conformers of held-out molecules and checks every answer.

    python evaluate.py --corpus CORPUS --model MODEL --out MODEL/evaluation.json

An answer is valid if it ends by itself, has the form [CONFORMER]...[/CONFORMER] with one point of three
strict numbers after every atom and nowhere else, gives the prompt's SMILES when the points are taken
away, and that SMILES has the atoms and bonds of the prompt's molecule. The weights are the bf16 ones of
MODEL, computed with in f32. Geometry is compared with conformers that RDKit makes anew, and the held-out
conformers of the corpus are judged beside the answers.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem
from rdkit.Geometry import Point3D
from transformers import AutoTokenizer, Qwen3ForCausalLM

from conformer_text import (
    CONFORMER_CLOSE,
    CONFORMER_OPEN,
    SMILES_CLOSE,
    SMILES_OPEN,
    points_of,
    prompt_of,
    smiles_of,
)

MAX_NEW_TOKENS = 384
BATCH = 100
GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
# Conformers that an answer is compared with; the closest counts.
REFERENCE_CONFORMERS = 10
BOND_TOLERANCE = 0.2


@torch.no_grad()
def complete(model, tokenizer, prompts, sampled):
    """-> the text after each prompt, and whether the model ended it."""
    answers = []
    for first in range(0, len(prompts), BATCH):
        inputs = tokenizer(prompts[first : first + BATCH], padding=True, padding_side="left", return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, **(SAMPLED if sampled else GREEDY))
        for ids in output[:, inputs.input_ids.shape[1] :].tolist():
            ended = tokenizer.eos_token_id in ids
            text = tokenizer.decode(ids[: ids.index(tokenizer.eos_token_id)] if ended else ids)
            answers.append((text, ended))
        print(f"{len(answers)} of {len(prompts)}", file=sys.stderr, flush=True)
    return answers


def same_graph(smiles, other):
    """Whether two SMILES, atom by atom in the order they are written in, are the same molecule."""
    molecules = [Chem.MolFromSmiles(text) for text in (smiles, other)]
    if None in molecules:
        return False
    atoms = [[atom.GetSmarts() for atom in molecule.GetAtoms()] for molecule in molecules]
    bonds = [
        {(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), bond.GetBondType()) for bond in molecule.GetBonds()}
        for molecule in molecules
    ]
    return atoms[0] == atoms[1] and bonds[0] == bonds[1]


def fault_of(smiles, text, ended):
    """The first thing wrong with an answer, or None."""
    if not ended:
        return "not ended"
    if not (text.startswith(CONFORMER_OPEN) and text.endswith(CONFORMER_CLOSE)):
        return "no conformer tags"
    conformer = text[len(CONFORMER_OPEN) : -len(CONFORMER_CLOSE)]
    try:
        points = points_of(conformer)
    except ValueError:
        return "point missing or malformed"
    stripped = smiles_of(conformer)
    if stripped != smiles:
        return "other SMILES"
    if not same_graph(stripped, smiles) or len(points) != Chem.MolFromSmiles(smiles).GetNumAtoms():
        return "other molecule"
    return None


def with_conformers(molecule, positions):
    """positions: [conformers, atoms, 3], angstrom. -> a copy of the molecule that has these alone."""
    molecule = Chem.Mol(molecule)
    molecule.RemoveAllConformers()
    for points in positions:
        conformer = Chem.Conformer(len(points))
        for atom, point in enumerate(points):
            conformer.SetAtomPosition(atom, Point3D(*point.tolist()))
        molecule.AddConformer(conformer, assignId=True)
    return molecule


def geometry_of(smiles, text, seed):
    """-> (RMSD to the closest of some reference conformers, share of bonds whose length is within the
    tolerance of the references' mean), or None where RDKit places no reference."""
    molecule = Chem.MolFromSmiles(smiles)
    with_hydrogens = Chem.AddHs(molecule)
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed = seed
    if not list(AllChem.EmbedMultipleConfs(with_hydrogens, REFERENCE_CONFORMERS, parameters)):
        return None
    # Hydrogens come after the atoms of the SMILES, so the first rows are those atoms in its order.
    atoms = molecule.GetNumAtoms()
    references = np.stack([conformer.GetPositions()[:atoms] for conformer in with_hydrogens.GetConformers()])
    points = points_of(text[len(CONFORMER_OPEN) : -len(CONFORMER_CLOSE)])

    starts, ends = np.array([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]).T
    lengths = np.linalg.norm(points[starts] - points[ends], axis=1)
    expected = np.linalg.norm(references[:, starts] - references[:, ends], axis=2).mean(0)

    answer, reference = with_conformers(molecule, points[None]), with_conformers(molecule, references)
    rmsd = min(AllChem.GetBestRMS(answer, reference, 0, index) for index in range(len(references)))
    return rmsd, (np.abs(lengths - expected) <= BOND_TOLERANCE).mean()


def judge(molecules, answers, seed):
    """Counts of valid answers and of faults, and how far the valid ones are from RDKit's geometry."""
    faults, geometries = Counter(), []
    for smiles, (text, ended) in zip(molecules, answers):
        fault = fault_of(smiles, text, ended)
        if fault is not None:
            faults[fault] += 1
            print(f"{fault}: {smiles} {text}", file=sys.stderr)
        elif (geometry := geometry_of(smiles, text, seed)) is not None:
            geometries.append(geometry)
    rmsds, bonds = np.array(geometries).reshape(-1, 2).T
    valid = len(molecules) - faults.total()
    return {
        "valid": valid,
        "valid_share": round(valid / len(molecules), 4),
        "faults": faults,
        "median_best_rmsd_angstrom": round(float(np.median(rmsds)), 3),
        f"bonds_within_{BOND_TOLERANCE}_angstrom": round(float(bonds.mean()), 4),
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--corpus", type=Path, required=True)
    arguments.add_argument("--model", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--molecules", type=int, default=1_000)
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()

    RDLogger.DisableLog("rdApp.*")
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = Qwen3ForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    lines = (options.corpus / "heldout.txt").read_text().splitlines()[: options.molecules]
    pairs = [line.removeprefix(SMILES_OPEN).split(SMILES_CLOSE) for line in lines]
    molecules = [smiles for smiles, _ in pairs]
    prompts = [prompt_of(smiles) for smiles in molecules]
    torch.manual_seed(options.seed)
    result = {
        "heldout_molecules": len(molecules),
        "seed": options.seed,
        "greedy": judge(molecules, complete(model, tokenizer, prompts, sampled=False), options.seed),
        "temperature_1": judge(molecules, complete(model, tokenizer, prompts, sampled=True), options.seed),
        # The corpus's own conformers: what the checks say of answers known to be right.
        "rdkit": judge(molecules, [(text, True) for _, text in pairs], options.seed),
    }
    beside = options.out.with_suffix(".new")
    beside.write_text(json.dumps(result, indent=2) + "\n")
    beside.rename(options.out)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
