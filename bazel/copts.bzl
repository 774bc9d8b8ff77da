"""How fmoe's own C is compiled. The rules of //bazel:cc.bzl apply it."""

_OPTIONS = [
    # gnu17, not c17: ISO mode turns the contraction of a*b+c into an fma off.
    "-std=gnu17",
    "-ffp-contract=fast",
    "-D_GNU_SOURCE",
    "-fopenmp",
    # What -ffast-math would give that changes no result of ours. Never
    # -ffinite-math-only: it folds isnan() to 0, and a diverged run must be seen.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wconversion",
    # int64_t counts index size_t allocations everywhere; the values are checked
    # where they enter.
    "-Wno-sign-conversion",
    "-Wpointer-arith",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    # A stack of an OpenMP thread is small.
    "-Wvla",
]

# A flag and not --copt=-Werror: given twice it is still one, and nothing is compiled anew.
FM_COPTS = _OPTIONS + select({
    "//bazel:werror_on": ["-Werror"],
    "//conditions:default": [],
})

FM_LINKOPTS = [
    "-fopenmp",
    "-lm",
]
