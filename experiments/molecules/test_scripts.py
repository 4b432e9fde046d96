"""python -m unittest test_scripts"""

import unittest

from make_data import strip_zeros
from score import THRESHOLDS, geometry, negative_x, passes
from trace_transformers import template_of


class Scripts(unittest.TestCase):
    def test_zeros_at_the_end_of_a_number_go_and_one_decimal_stays(self):
        line = "[SMILES]C1.C1[/SMILES][CONFORMER][C]<0.0000,-1.5000,10.2030>1.[C]<1.0000,0.0010,2.3456>1[/CONFORMER]"
        short = "[SMILES]C1.C1[/SMILES][CONFORMER][C]<0.0,-1.5,10.203>1.[C]<1.0,0.001,2.3456>1[/CONFORMER]"
        self.assertEqual(strip_zeros(line), short)

    def test_a_pass_reads_the_last_number_and_does_not_see_junk(self):
        for text, expected in [
            ("[CONFORMER][C]<0.0,0.0,0.0>[O]<1.4,0.0,0.0>[/CONFORMER]", True),
            ('[CONFORMER][C]<0.0,0.0,0.0amen>[O]<1.4,0.0,0.5204"1>[/CONFORMER]', True),
            ("[CONFORMER][C]<0.0,0.0>[O]<1.4,0.0,0.0>[/CONFORMER]", False),
            ("[CONFORMER][C]<0.0,0.0,0.0>[N]<1.4,0.0,0.0>[/CONFORMER]", False),
            ("[CONFORMER][C]<0.0,0.0,0.0>[/CONFORMER]", False),
            ("[CONFORMER][C]<0.0,0.0,0.0>[O]<1.4,0.0,x>[/CONFORMER]", False),
            ("[CONFORMER][C]<0.0,0.0,0.0>[O]<1.4,0.0,0.0>", False),
        ]:
            self.assertEqual(passes("CO", text), expected, text)

    def test_coverage_counts_what_is_invalid_as_covering_nothing(self):
        shape = geometry([[0.1, 0.9], None])
        self.assertEqual((shape["molecules"], shape["valid"]), (2, 1))
        self.assertAlmostEqual(shape["mat_r"], 0.5)
        self.assertAlmostEqual(shape["mat_p"], 0.1)
        at = THRESHOLDS.index(0.5)
        self.assertEqual((shape["cov_r"][at], shape["cov_p"][at]), (0.25, 0.5))
        self.assertEqual((shape["cov_r"][-1], shape["cov_p"][-1]), (0.5, 0.5))
        self.assertIsNone(geometry([None]))

    def test_a_sign_is_looked_for_in_the_first_number(self):
        self.assertEqual(negative_x(["<-1.0,2.0,3.0><1.0,-2.0,3.0>"]), 0.5)

    def test_a_template_copies_the_marks_and_leaves_points_free(self):
        class Characters:
            eos_token_id = -1

            def __call__(self, text):
                return {"input_ids": list(text)}

        tokens = template_of("C[nH]1", Characters())
        free = [None] * len("0.0000,0.0000,0.0000")
        expected = [*"[CONFORMER][C]<", *free, *">[nH]<", *free, *">1[/CONFORMER]", -1]
        self.assertEqual(tokens, expected)


if __name__ == "__main__":
    unittest.main()
