/* What the sanitizers need to know about the libraries that are not ours.
 *
 * Their runtimes call these functions when the program starts; the environment's
 * ASAN_OPTIONS, UBSAN_OPTIONS and TSAN_OPTIONS come after and win. */

#ifndef __has_feature
#define __has_feature(x) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
const char *__asan_default_options(void);
const char *__lsan_default_suppressions(void);

__attribute__((used, visibility("default"))) const char *__asan_default_options(void) {
    return "detect_leaks=1:malloc_context_size=40:detect_stack_use_after_return=1";
}

/* No library here calls back into our code, so no leak of ours is hidden. libpython
 * is not listed: every call from a script passes through it. H5O_pline_copy and
 * H5FL__malloc, which only HDF5 calls: 1.10, linked into the program, loses a filter list and
 * pieces of metadata when a damaged file or dataset cannot be opened. */
__attribute__((used, visibility("default"))) const char *__lsan_default_suppressions(void) {
    return "leak:libmpi\nleak:libopen-pal\nleak:libopen-rte\nleak:libpmix\nleak:mca_\n"
           "leak:H5O_pline_copy\nleak:H5FL__malloc\nleak:libhwloc\nleak:libevent\nleak:"
           "libopenblas\nleak:"
           "libdnnl\nleak:libgomp\n"
           "leak:libcuda\nleak:libnccl\nleak:libcublas\n";
}
#endif

#if defined(FM_UBSAN)
const char *__ubsan_default_options(void);

__attribute__((used, visibility("default"))) const char *__ubsan_default_options(void) {
    return "print_stacktrace=1";
}
#endif

#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
const char *__tsan_default_options(void);
const char *__tsan_default_suppressions(void);

__attribute__((used, visibility("default"))) const char *__tsan_default_options(void) {
    return "second_deadlock_stack=1";
}

/* Built without the sanitizer, so the order that their locks make is not seen. */
__attribute__((used, visibility("default"))) const char *__tsan_default_suppressions(void) {
    return "race:libgomp\nrace:libopenblas\nrace:libdnnl\nrace:libmpi\nrace:libopen-pal\n"
           "race:libopen-rte\nrace:libpmix\nrace:libevent\nrace:mca_\nmutex:libpmix\n"
           "deadlock:libopen-pal\ndeadlock:libopen-rte\n";
}
#endif

/* An empty translation unit is no C. */
extern int fm_sanitize_options_;
