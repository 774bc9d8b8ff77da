#!/bin/bash
# run_python_test.sh PYTHON SCRIPT ARGS...   (called by //bazel:test.bzl)
set -euo pipefail
export PYTHONDONTWRITEBYTECODE=1
exec "$@"
