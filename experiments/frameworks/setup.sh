#!/bin/sh
# Builds the Python environment of an adapter, from its folder: sh ../setup.sh
set -eu
python3 -m venv .venv
# llama.cpp is built from source, for this machine.
CMAKE_ARGS="-DGGML_NATIVE=ON ${CMAKE_ARGS-}" .venv/bin/pip install --requirement requirements.txt
