"""Makes `import harness` work for the programs here: it lies beside the integration tests."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "integration"))
