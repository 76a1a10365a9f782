#!/usr/bin/env bash
# Set up the environment if need be and run the tests.
#
#   bash tools/run_tests.sh [arguments of pytest]     default: all tests
#
#   VENV   where the environment is or shall be (default: .venv)
#
# A process for each core, four at most; "-n 0" among the arguments for one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}

bash tools/setup_env.sh "$venv"
# One thread: the models of the tests are too small for more.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$venv/bin/python" -m pytest -n auto --maxprocesses 4 "$@"
