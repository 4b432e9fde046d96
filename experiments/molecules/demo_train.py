"""Makes the modules that made the demo model importable: `models/demo/train`."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "models" / "demo" / "train"
sys.path.insert(0, str(FOLDER))
