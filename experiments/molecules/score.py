"""Scores what `onegrid experiment molecules` wrote.

    python score.py --results results/MACHINE --data data --models models --out results/MACHINE/scores.json

Reads RESULTS/molecules.json and RESULTS/molecules-texts, and the conformers of `make_data.py`. For every model,
temperature and method:

- passes: the four checks of the published study (the prompt's SMILES is given; there is a closed block with a
  point in it; the block's molecule has the prompt's graph, stereo marks apart; the last number in every
  coordinate can be read) - a pass does not see junk;
- valid: the strict parse of the demo model's evaluation, with the plan's form of a coordinate. onegrid has
  judged each text by an automaton of its own: both must agree, or nothing is written;
- geometry of valid answers against RDKit's conformers of the same molecule: RMSD after alignment over all
  symmetries (GetBestRMS), coverage and matching after GEOM-Drugs' users (Ganea et al., 2021): COV-R, the share of
  references that an answer comes within a threshold of; COV-P, the share of answers that a reference comes within a
  threshold of; MAT-R and MAT-P, the means of the smallest RMSDs (the median of
  molecules beside MAT-R, since a form without a limit of digits lets a model write endless numbers). An invalid answer covers nothing and is not
  precise; the means are over valid ones. There is one answer for each molecule, so COV-R is low where a molecule
  has several shapes; `rdkit` is what one further conformer of RDKit's own comes to.

Beside them, how many tokens the numbers of the data take, by tokenizer and by format.
"""

import argparse
import json
import multiprocessing
import os
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem
from tokenizers import Tokenizer

import demo_train  # noqa: F401  (finds the modules below)
import conformer_text
from conformer_text import CONFORMER_CLOSE, CONFORMER_OPEN, POINT, points_of, smiles_of
from evaluate import fault_of, with_conformers

THRESHOLDS = [round(0.05 * step, 2) for step in range(1, 61)]
# Those that tables show.
SHOWN = (0.25, 0.5, 1.0)
NUMBER = re.compile(r"-?\d+(?:\.\d*)?|-?\.\d+")
ENDED = ("eos", "constraint")


def block_of(text):
    """What stands between the tags, or None."""
    if CONFORMER_OPEN not in text or CONFORMER_CLOSE not in text:
        return None
    return text.split(CONFORMER_OPEN, 1)[1].split(CONFORMER_CLOSE, 1)[0]


def flat(smiles):
    """The canonical SMILES without stereo marks, or None."""
    molecule = Chem.MolFromSmiles(smiles)
    return molecule and Chem.MolToSmiles(molecule, isomericSmiles=False)


def passes(smiles, text):
    """The published checks, which take the last number of a coordinate."""
    block = block_of(text)
    if block is None or ">" not in block or flat(smiles_of(block)) != flat(smiles):
        return False
    points = [[NUMBER.findall(number) for number in point.split(",")] for point in POINT.findall(block)]
    return len(points) == Chem.MolFromSmiles(smiles).GetNumAtoms() and all(
        len(point) == 3 and all(point) for point in points
    )


def rmsds(smiles, points, references):
    """RMSD of one answer to each reference, angstrom. points: [atoms, 3]; references: [conformers, atoms, 3]."""
    molecule = Chem.MolFromSmiles(smiles)
    answer, others = with_conformers(molecule, points[None]), with_conformers(molecule, references)
    return [AllChem.GetBestRMS(answer, others, 0, index) for index in range(len(references))]


def judge(task):
    """(SMILES, text, ended, references) -> (passes, fault or None, RMSDs or None)."""
    smiles, text, ended, references = task
    fault = fault_of(smiles, text, ended)
    if fault is not None or not references:
        return passes(smiles, text), fault, None
    points = points_of(text[len(CONFORMER_OPEN) : -len(CONFORMER_CLOSE)])
    return passes(smiles, text), None, rmsds(smiles, points, np.array(references))


def control(task):
    """As `judge`, of one further conformer of RDKit's."""
    smiles, references, controls = task
    return rmsds(smiles, np.array(controls[0]), np.array(references)) if references and controls else None


def geometry(found):
    """found: for each molecule that has references the RMSDs of its answer to them, or None if it is invalid."""
    valid = [np.array(one) for one in found if one is not None]
    if not valid:
        return None
    best = np.array([one.min() for one in valid])
    within = [(best <= threshold).sum() / len(found) for threshold in THRESHOLDS]
    recall = [sum((one <= threshold).mean() for one in valid) / len(found) for threshold in THRESHOLDS]
    return {
        "molecules": len(found),
        "valid": len(valid),
        "median_best_rmsd": round(float(np.median(best)), 4),
        # Of each molecule, the mean over its references: one endless number would decide a mean of all.
        "mat_r": round(float(np.mean([one.mean() for one in valid])), 4),
        "median_mat_r": round(float(np.median([one.mean() for one in valid])), 4),
        "mat_p": round(float(best.mean()), 4),
        "cov_r": [round(float(share), 4) for share in recall],
        "cov_p": [round(float(share), 4) for share in within],
    }


def negative_x(texts):
    """-> the share of points whose first number is negative."""
    points = [point for text in texts for point in POINT.findall(text)]
    return round(sum(point.startswith("-") for point in points) / max(1, len(points)), 4)


def tokens_of_numbers(data, models, heldout):
    """How often a point and a number take how many tokens, by format and tokenizer, spelled between copied marks."""
    found = []
    for form in sorted(path.name for path in data.iterdir() if (path / "heldout.txt").exists()):
        lines = (data / form / "heldout.txt").read_text().splitlines()[heldout:]
        points = [point for line in lines for point in POINT.findall(line)]
        numbers = [number for point in points for number in point.split(",")]
        # A family's tokenizers spell numbers alike, whichever format their other merges were learnt from.
        files = {path.parent.name: path for path in sorted(models.glob("*/*/tokenizer.json"))}
        for family, path in files.items():
            if family.endswith("-early"):
                continue
            tokenizer = Tokenizer.from_file(str(path))
            lengths = [
                Counter(len(encoding.ids) for encoding in tokenizer.encode_batch(spelled, add_special_tokens=False))
                for spelled in (points, numbers)
            ]
            found.append(
                {
                    "format": form,
                    "tokenizer": family,
                    "points": {str(n): count for n, count in sorted(lengths[0].items())},
                    "numbers": {str(n): count for n, count in sorted(lengths[1].items())},
                }
            )
    return found


def score(path, references, pool):
    """All methods of a cell."""
    cell = json.loads(path.read_text())
    by_smiles = {one["smiles"]: one["references"] for one in references}
    tasks, methods = {}, []
    for method in cell["methods"]:
        for smiles, text in zip(cell["molecules"], method["texts"], strict=True):
            ended = text["stop"] in ENDED
            tasks.setdefault((smiles, text["text"], ended), (smiles, text["text"], ended, by_smiles[smiles]))
    judged = dict(zip(tasks, pool.map(judge, tasks.values(), chunksize=64)))
    best = {}
    for method in cell["methods"]:
        rows = [
            judged[smiles, text["text"], text["stop"] in ENDED]
            for smiles, text in zip(cell["molecules"], method["texts"])
        ]
        for (_, fault, _), text in zip(rows, method["texts"]):
            if (fault is None) != text["valid"]:
                raise SystemExit(f"{path}: onegrid says valid: {text['valid']}, and here {fault}: {text['text']}")
        has = [bool(by_smiles[smiles]) for smiles in cell["molecules"]]
        best[method["method"]] = [one and min(one) for _, _, one in rows]
        unconstrained = best[cell["methods"][0]["method"]]
        pairs = [(a, b) for a, b in zip(unconstrained, best[method["method"]]) if a is not None and b is not None]
        methods.append(
            {
                "method": method["method"],
                "texts": len(rows),
                "passes": sum(passed for passed, _, _ in rows),
                "valid": sum(fault is None for _, fault, _ in rows),
                "faults": Counter(fault for _, fault, _ in rows if fault),
                "negative_x": negative_x(text["text"] for text in method["texts"]),
                "geometry": geometry([one for (_, _, one), known in zip(rows, has) if known]),
                # Molecules that are valid in both: the answers of the first method, and those of this one.
                "paired": {
                    "molecules": len(pairs),
                    "first_median_rmsd": round(float(np.median([a for a, _ in pairs])), 4) if pairs else None,
                    "own_median_rmsd": round(float(np.median([b for _, b in pairs])), 4) if pairs else None,
                    "further": sum(b > a + 1e-6 for a, b in pairs),
                    "nearer": sum(b < a - 1e-6 for a, b in pairs),
                },
            }
        )
    return {key: cell[key] for key in ("cell", "model", "temperature")} | {"methods": methods}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--results", type=Path, required=True)
    arguments.add_argument("--data", type=Path, default=Path("data"))
    arguments.add_argument("--models", type=Path, default=Path("models"))
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()

    RDLogger.DisableLog("rdApp.*")
    result = json.loads((options.results / "molecules.json").read_text())
    # Before the processes start, which inherit it.
    conformer_text.COORDINATE = re.compile(result["plan"]["coordinate"])
    references = json.loads((options.data / "references.json").read_text())
    measured = [cell["result"] for cell in result["cells"] if cell["outcome"] == "measured"]
    with multiprocessing.get_context("fork").Pool() as pool:
        cells = []
        for found in measured:
            print(f"{found['texts']}", file=sys.stderr, flush=True)
            cells.append(score(options.results / found["texts"], references, pool))
        tasks = [(one["smiles"], one["references"], one["controls"]) for one in references if one["references"]]
        rdkit = geometry(pool.map(control, tasks, chunksize=64))
    scores = {
        "revision": result["environment"].get("git_revision"),
        "thresholds": THRESHOLDS,
        "cells": cells,
        "rdkit": rdkit,
        "negative_x_of_the_data": negative_x(
            (options.data / "fixed" / "heldout.txt").read_text().splitlines()[: result["plan"]["molecules"]]
        ),
        "data": tokens_of_numbers(options.data, options.models, result["plan"]["molecules"]),
    }
    beside = options.out.with_suffix(".new")
    beside.write_text(json.dumps(scores, indent=1) + "\n")
    os.replace(beside, options.out)
    for cell in cells:
        for method in cell["methods"]:
            shape = method["geometry"]
            at = [f"{shape['cov_r'][THRESHOLDS.index(threshold)]:.3f}" for threshold in SHOWN] if shape else []
            print(
                f"{cell['cell']:28} {method['method']:18} passes {method['passes']:5} valid {method['valid']:5}",
                f"median RMSD {shape['median_best_rmsd']:.3f} COV-R {' '.join(at)}" if shape else "",
                f"x<0 {method['negative_x']:.3f} paired {method['paired']}",
            )
    print("rdkit", rdkit and (rdkit["median_best_rmsd"], rdkit["mat_r"], rdkit["mat_p"]))


if __name__ == "__main__":
    main()
