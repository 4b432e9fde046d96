#!/bin/sh
# Builds the Python environment of the scripts: sh setup.sh
set -eu
cd "$(dirname "$0")"
python3 -m venv .venv
.venv/bin/pip install --requirement requirements.txt
