#!/bin/bash
# run_train_test.sh RANKS MPIRUN PROGRAM ARGS...   (called by //bazel:test.bzl)
set -euo pipefail
ranks=$1 mpirun=$2
shift 2
if [ "$ranks" -eq 1 ]; then
  exec "$@"
fi
# MPI's libraries have no frame pointers: full (slow) stacks, or LeakSanitizer's
# suppressions see one frame and do not match. Read by sanitizer builds only.
export ASAN_OPTIONS="fast_unwind_on_malloc=0:${ASAN_OPTIONS:-}"
# A rank that waits spins; on fewer cores than ranks it would take the others' time.
export OMPI_MCA_mpi_yield_when_idle=1
exec "$mpirun" -n "$ranks" "$@"
