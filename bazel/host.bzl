"""The libraries of the host, one repository each.

Nothing here downloads anything. Each rule in //bazel/host asks the host
(pkg-config, the compiler wrappers, python3 itself, a few environment variables),
symlinks the include directories that it finds into its own repository and writes
a BUILD file there. The tree's own BUILD files then say @hdf5, @mpi, @python, ...
and hold no absolute path.

Environment variables that choose (exported, or --repo_env=NAME=VALUE):

  PYTHON       the python3 to embed         PYTHON_LINK  shared | static
  HDF5_HOME    a prefix                     MPICC        the MPI wrapper, or none
  BLAS_HOME    a prefix of OpenBLAS         DNNL_HOME    a prefix of oneDNN
  CUDA_HOME    the toolkit, or none         NCCL_HOME    a prefix, or none
  JANSSON_HOME a prefix                     XXHASH_HOME  a prefix

After installing a library that was missing: `bazel sync --configure`.
"""

load("//bazel/host:blas.bzl", "blas_repository", "dnnl_repository")
load("//bazel/host:cuda.bzl", "cuda_repository", "nccl_repository")
load("//bazel/host:hdf5.bzl", "hdf5_repository")
load("//bazel/host:jansson.bzl", "jansson_repository", "xxhash_repository")
load("//bazel/host:mpi.bzl", "mpi_repository")
load("//bazel/host:python.bzl", "python_repository")

def host_repositories():
    """@python @hdf5 @blas @dnnl @jansson @xxhash are required; @mpi @cuda @nccl may be empty."""
    python_repository(name = "python")
    hdf5_repository(name = "hdf5")
    blas_repository(name = "blas")
    dnnl_repository(name = "dnnl")
    jansson_repository(name = "jansson")
    xxhash_repository(name = "xxhash")
    mpi_repository(name = "mpi")
    cuda_repository(name = "cuda")
    nccl_repository(name = "nccl")
