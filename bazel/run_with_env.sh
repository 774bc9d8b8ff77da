#!/bin/bash
# run_with_env.sh [NAME=VALUE...] PROGRAM ARGS...   (called by //bazel:old_bazel.bzl)
exec env "$@"
