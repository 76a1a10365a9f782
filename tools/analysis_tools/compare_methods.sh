#!/usr/bin/env bash
# All methods on the digit scenes, as a table and a plot, with the Python that
# is active: an hour on two CPU cores once the quickstart has run.
#
#   bash tools/analysis_tools/compare_methods.sh [--work-dir DIR] [--smoke]
#     [--methods METHOD ...] [--seeds N ... [--saved exact bf16 int8]]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../quickstart.sh" --no-setup \
  --compare "$@"
