"""python -m unittest test_conformer_text"""

import unittest

import numpy as np

from conformer_text import conformer_of, format_coordinate, line_of, points_of, smiles_of


class ConformerText(unittest.TestCase):
    def test_coordinates_are_truncated_and_zero_has_no_sign(self):
        for value, text in [(1.23459, "1.2345"), (-0.88839, "-0.8883"), (-0.00009, "0.0000"), (12.0, "12.0000")]:
            self.assertEqual(format_coordinate(value), text)

    def test_every_atom_gets_brackets_and_a_point(self):
        points = np.array([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [2.0, -1.25, 0.0]])
        self.assertEqual(
            line_of("CCO", points),
            "[SMILES]CCO[/SMILES][CONFORMER][C]<0.0000,0.0000,0.0000>[C]<1.5000,0.0000,0.0000>"
            "[O]<2.0000,-1.2500,0.0000>[/CONFORMER]",
        )

    def test_the_smiles_and_the_points_come_back(self):
        for smiles, atoms in [("CCl", 2), ("c1cc[nH]c1", 5), ("F/C=C/[C@@H](Br)N", 6), ("C#CC(=O)O", 5)]:
            points = np.arange(3 * atoms).reshape(atoms, 3) / 4
            conformer = conformer_of(smiles, points)
            self.assertEqual(smiles_of(conformer), smiles)
            np.testing.assert_array_equal(points_of(conformer), points)

    def test_malformed_conformers_are_refused(self):
        point = "<0.0000,0.0000,0.0000>"
        for conformer in [
            "[C]<0.000,0.0000,0.0000>",
            "[C]<0.0000,0.0000>",
            "[C]<+0.0000,0.0000,0.0000>",
            f"[C]{point}{point}",
            f"[C]{point}[O]",
            f"[C][O]{point}",
            f"[C]={point}",
            "[C]<0.0000,0.0000,0.0000",
        ]:
            with self.assertRaises(ValueError, msg=conformer):
                points_of(conformer)


if __name__ == "__main__":
    unittest.main()
