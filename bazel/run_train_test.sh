#!/bin/bash
# run_train_test.sh RANKS MPIRUN PROGRAM ARGS...   (called by //bazel:test.bzl)
set -euo pipefail
ranks=$1 mpirun=$2
shift 2
# OpenMPI names its files and its shared memory after the launcher's process number, which is the
# same in every sandbox: tests that run at once would write into each other's. Each gets a folder of
# its own (of a short name: sockets lie in it).
folder=$(mktemp -d /dev/shm/fmoe.XXXXXX 2>/dev/null || mktemp -d /tmp/fmoe.XXXXXX)
trap 'rm -rf "$folder"' EXIT
export OMPI_MCA_btl_vader_backing_directory="$folder" OMPI_MCA_orte_tmpdir_base="$folder"
if [ "$ranks" -eq 1 ]; then
  "$@"
  exit
fi
# MPI's libraries have no frame pointers: full (slow) stacks, or LeakSanitizer's
# suppressions see one frame and do not match. Read by sanitizer builds only.
export ASAN_OPTIONS="fast_unwind_on_malloc=0:${ASAN_OPTIONS:-}"
# A rank that waits spins; on fewer cores than ranks it would take the others' time.
export OMPI_MCA_mpi_yield_when_idle=1
"$mpirun" -n "$ranks" "$@"
