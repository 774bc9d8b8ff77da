#!/usr/bin/env bash
# Makes this machine ready to build and test fmoe: installs what is missing (Debian 12,
# Ubuntu 22.04 and 24.04, by apt-get) and pins one Python in user.bazelrc.
#
#   tools/setup.sh
#
# Safe to run again: what is there is left alone, and without anything missing no
# network is used. PYTHON=/path/to/python3 chooses the Python; otherwise the active
# virtual environment's, otherwise one with Python.h, numpy and h5py. Where CI=true,
# user.bazelrc turns warnings into errors as well.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*"; }
die() {
  printf 'setup: error: %s\n' "$*" >&2
  exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }
any() { compgen -G "$1" >/dev/null; }

# ---------------------------------------------------------------- Python

# What makes a Python fit, printed by itself: "EXECUTABLE SCORE WHY". Score 0: cannot be
# embedded; 1: can; 2: numpy too; 3: numpy and h5py.
ask_python='
import os, sys, sysconfig
v = sysconfig.get_config_var
include = sysconfig.get_path("include")
if v("Py_ENABLE_SHARED"):
    libs = [os.path.join(v("LIBDIR"), "libpython%s.so" % v("LDVERSION"))]
else:
    libs = [os.path.join(v("LIBPL"), "libpython%s%s.a" % (v("LDVERSION"), s)) for s in ("", "-pic")]
def imports(name):
    try:
        __import__(name)
        return True
    except Exception:
        return False
score, why = 0, ""
if sys.version_info < (3, 10):
    why = "is Python %d.%d; 3.10 or later is needed" % sys.version_info[:2]
elif not os.path.exists(os.path.join(include, "Python.h")):
    why = "has no Python.h"
elif not any(os.path.exists(p) for p in libs):
    why = "has no " + " or ".join(libs)
else:
    missing = [m for m in ("numpy", "h5py") if not imports(m)]
    score = 3 - len(missing)
    why = "has no " + " and no ".join(missing) if missing else "has numpy and h5py"
print(sys.executable, score, why, sep="\t")
'

# Sets python, score, why to the best there is, in the order of the header.
choose_python() {
  local candidates candidate exe s w
  python='' score=0 why='it does not run'
  if [ -n "${PYTHON:-}" ]; then
    candidates=("$PYTHON")
  else
    if [ -n "${VIRTUAL_ENV:-}" ]; then
      IFS=$'\t' read -r exe s w < <("$VIRTUAL_ENV/bin/python" -c "$ask_python" 2>/dev/null) || true
      if [ "${s:-0}" -gt 0 ]; then
        python=$exe score=$s why=$w
        return
      fi
      say "the virtual environment $VIRTUAL_ENV is passed over: ${w:-its python does not run}"
    fi
    mapfile -t candidates < <(type -ap python3; echo /usr/bin/python3)
  fi
  for candidate in "${candidates[@]}"; do
    IFS=$'\t' read -r exe s w < <("$candidate" -c "$ask_python" 2>/dev/null) || continue
    if [ "$s" -gt "$score" ]; then
      python=$exe score=$s why=$w
    elif [ -z "$python" ]; then
      why="$exe $w"
    fi
  done
}

# A Python that somebody chose is taken as it is; of the others only a complete one.
python_fits() {
  choose_python
  if [ -n "${PYTHON:-}" ]; then
    [ "$score" -gt 0 ] || die "PYTHON=$PYTHON cannot be embedded: $why"
    return 0
  fi
  [ "$score" -eq 3 ] || { [ "$score" -gt 0 ] && [[ -n "${VIRTUAL_ENV:-}" && $python == "$VIRTUAL_ENV"/* ]]; }
}

# ---------------------------------------------------------------- what is missing

missing=() packages=()
need() { # need WHAT PACKAGES -- CHECK...
  local what=$1 names=$2
  shift 3
  "$@" && return
  missing+=("$what")
  # shellcheck disable=SC2206  # several names, split on purpose
  packages+=($names)
}

have_hdf5() { [ -n "${HDF5_HOME:-}" ] || pkg-config --exists hdf5-serial 2>/dev/null || pkg-config --exists hdf5 2>/dev/null || has h5cc; }
have_blas() {
  [ -n "${BLAS_HOME:-}" ] || any '/usr/lib/*/openblas-openmp/libopenblas.so' ||
    [[ "$(pkg-config --variable=openblas_config openblas 2>/dev/null)" == *USE_OPENMP=1* ]]
}
have_header() { # have_header VARIABLE HEADER
  [ -n "${!1:-}" ] || [ -e "/usr/include/$2" ] || [ -e "/usr/local/include/$2" ] || any "/usr/include/*/$2"
}
have_mpi() { [ -n "${MPICC:-}" ] || { has mpicc && has mpirun; }; }
# bazel-bootstrap needs a JDK of the machine; other Bazels bring their own.
have_jdk() { has javac || [ -x "${JAVA_HOME:-}/bin/javac" ] || { has bazel && [ ! -e /usr/share/bazel ]; }; }

look() {
  missing=() packages=()
  need 'bazel' bazel-bootstrap -- has bazel
  need 'a JDK (for bazel)' default-jdk-headless -- have_jdk
  need 'gcc' gcc -- has gcc
  need 'g++' g++ -- has g++
  need 'pkg-config' pkg-config -- has pkg-config
  need 'a Python 3.10 or later with Python.h, numpy and h5py' 'python3-dev python3-numpy python3-h5py' -- python_fits
  need 'HDF5' libhdf5-dev -- have_hdf5
  need 'jansson' libjansson-dev -- have_header JANSSON_HOME jansson.h
  need 'xxHash' libxxhash-dev -- have_header XXHASH_HOME xxhash.h
  need 'MPI' 'libopenmpi-dev openmpi-bin' -- have_mpi
  need 'OpenBLAS, its OpenMP build' libopenblas-openmp-dev -- have_blas
  need 'oneDNN' libdnnl-dev -- have_header DNNL_HOME dnnl.h
}

# ---------------------------------------------------------------- Bazel's version

# bazel/old_bazel.bzl makes up for what 3.5 lacks of 4.2.
bazel_needed=3.5

bazel_version() {
  # Debian's reports no version of its own.
  dpkg-query -W -f '${Version}' bazel-bootstrap 2>/dev/null || bazel --version 2>/dev/null | sed 's/^bazel //'
}

check_bazel_version() { # check_bazel_version VERSION WHOSE
  [[ $1 == [0-9]* ]] || return 0
  if [ "$(printf '%s\n' "$1" $bazel_needed | sort -V | head -n 1)" != $bazel_needed ]; then
    die "$2 is version $1; $bazel_needed or later is needed. Ubuntu 22.04 packages 3.5, Ubuntu 24.04 and Debian 12 package 4.2. Elsewhere Bazelisk with USE_BAZEL_VERSION=4.2.4 gets one (not tested here)"
  fi
  case $1 in
    3.5.* | 4.2.*) ;;
    *) say "bazel is version $1; fmoe is tested with 3.5 and 4.2 alone" ;;
  esac
}

# ---------------------------------------------------------------- installing

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    env DEBIAN_FRONTEND=noninteractive "$@"
  elif [ -t 0 ]; then
    sudo env DEBIAN_FRONTEND=noninteractive "$@"
  else
    sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
  fi
}

apt_install() {
  as_root apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -qq install -y --no-install-recommends "$@" >/dev/null
}

list_missing() { printf '  missing: %s\n' "${missing[@]}" >&2; }

install_missing() {
  local name unknown=()
  if ! has apt-get; then
    list_missing
    die "there is no apt-get here; install the above by your system's means (Debian's names: ${packages[*]})"
  fi
  if [ "$(id -u)" -ne 0 ] && ! has sudo; then
    list_missing
    die "neither root nor sudo; ask for: apt-get install ${packages[*]}"
  fi
  say "missing: $(printf '%s; ' "${missing[@]}" | sed 's/; $//')"
  say "apt-get update"
  as_root apt-get -o Acquire::Retries=3 -qq update || die "apt-get update failed; is there a network? Wanted: ${packages[*]}"
  for name in "${packages[@]}"; do
    apt-cache show "$name" >/dev/null 2>&1 || unknown+=("$name")
  done
  if [ ${#unknown[@]} -gt 0 ]; then
    die "apt knows no package ${unknown[*]}. Debian 12 has it in main, Ubuntu in universe: add-apt-repository universe (package software-properties-common), then run this again"
  fi
  if ! has bazel; then
    check_bazel_version "$(apt-cache policy bazel-bootstrap | awk '/Candidate:/ {print $2}')" "apt's bazel-bootstrap"
  fi
  say "apt-get install ${packages[*]}"
  apt_install "${packages[@]}" || die "apt-get install ${packages[*]} failed; see above"
  look
  if [ ${#missing[@]} -gt 0 ]; then
    list_missing
    die "still missing after the installation"
  fi
}

# ---------------------------------------------------------------- user.bazelrc

write_bazelrc() {
  local begin='# >>> written by tools/setup.sh; it replaces the lines up to <<<' end='# <<<' command commands new
  new=$(mktemp user.bazelrc.XXXXXX)
  if [ -e user.bazelrc ]; then
    awk -v b="$begin" -v e="$end" '$0 == b {skip = 1} !skip {print} skip && $0 == e {skip = 0}' user.bazelrc >"$new"
  fi
  {
    echo "$begin"
    # Every command that fetches: a query with another Python would fetch anew.
    commands=(build query fetch sync)
    [[ $(bazel_version) != 3.* ]] || commands=(build) # its others do not take it
    for command in "${commands[@]}"; do
      echo "$command --repo_env=PYTHON=$python"
    done
    [ "${CI:-}" != true ] || echo 'build --config=ci'
    echo "$end"
  } >>"$new"
  chmod 644 "$new"
  mv "$new" user.bazelrc
}

look
if [ ${#missing[@]} -eq 0 ]; then
  say 'everything needed is installed'
else
  install_missing
fi
check_bazel_version "$(bazel_version)" "the bazel here"
write_bazelrc
say "Python: $python ($why), in user.bazelrc"
[ "$score" -eq 3 ] || say "tests that need what it lacks are skipped"
if [ "${CI:-}" = true ] && has apt-get; then
  # The version that .clang-format is written for; clang-tidy reads its own omp.h.
  has clang-format-14 || apt_install clang-format-14 || say 'no clang-format 14: layout is not checked'
  has clang-tidy-14 || apt_install clang-tidy-14 libomp-14-dev || say 'no clang-tidy 14: lint is skipped'
fi
if [ -n "${CUDA_HOME:-}" ] || [ -x /usr/local/cuda/bin/nvcc ] || has nvcc; then
  say 'CUDA: a toolkit is here; the CUDA backend is built too'
else
  say 'CUDA: no toolkit; everything is built for the CPU'
fi
say 'now: bazel run //:train -- examples/quickstart.py   (or every test: bazel test //...)'
