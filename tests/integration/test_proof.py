"""The negative controls of the proof still apply: a control whose place in the sources is gone shows nothing."""

import os
import pathlib
import subprocess
import sys
import unittest

import harness

ROWS = harness.ROOT / "tests" / "proof" / "rows"


class TestControls(unittest.TestCase):
    def test_each_row_has_one_and_it_applies(self):
        rows = [row for row in sorted(pathlib.Path(ROWS).iterdir()) if row.is_file() and os.access(row, os.X_OK)]
        self.assertGreaterEqual(len(rows), 15)
        for row in rows:
            with self.subTest(row.name):
                done = subprocess.run([sys.executable, row, "--applies"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                      check=False)
                self.assertEqual(done.returncode, 0, done.stdout)


if __name__ == "__main__":
    unittest.main()
