#!/usr/bin/env bash
# Everything that a GPU is needed for, in one run of under ten minutes:
#
#   tools/gpu_check.sh
#
# Builds the CUDA plugin, runs the operations' tests on the GPU (not in Bazel's sandbox, which may
# hide it) and prints date, commit and GPU. The output belongs in docs/gpu-results.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v nvidia-smi >/dev/null || ! nvidia-smi >/dev/null 2>&1; then
  echo "gpu_check: no NVIDIA GPU or driver here" >&2
  exit 1
fi
date -u +'%Y-%m-%d %H:%M UTC'
git log -1 --format='commit %h %s'
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

bazel build --config=cuda --config=quiet //tensor/cuda:libfmoe_cuda.so //tests/tensor/cuda:all //:train
export FMOE_CUDA_PLUGIN=$PWD/bazel-bin/tensor/cuda/libfmoe_cuda.so
bazel-bin/train --info
status=0
timeout 480 bazel-bin/tests/tensor/cuda/ops_test --device cuda | tee /tmp/fmoe_gpu_ops.log | grep -vE '^(ok|SKIP)' || status=$?
grep SKIP /tmp/fmoe_gpu_ops.log | sed 's/ (.*//' | sort | uniq -c || true
exit "$status"
