#include "tensor/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *fm_status_name(fm_status s) {
    switch (s) {
#define NAME(name, number, text, exception)                                                        \
    case name:                                                                                     \
        return #name;
        FM_STATUS_MAP(NAME)
#undef NAME
    }
    return "unknown status";
}

const char *fm_status_text(fm_status s) {
    switch (s) {
#define TEXT(name, number, text, exception)                                                        \
    case name:                                                                                     \
        return text;
        FM_STATUS_MAP(TEXT)
#undef TEXT
    }
    return "unknown status";
}

const char *fm_status_exception(fm_status s) {
    switch (s) {
#define EXCEPTION(name, number, text, exception)                                                   \
    case name:                                                                                     \
        return exception;
        FM_STATUS_MAP(EXCEPTION)
#undef EXCEPTION
    }
    return "RuntimeError";
}

fm_status fm_fail(fm_error *err, fm_status s, const char *fmt, ...) {
    if (!err || err->status != FM_OK) return s;
    err->status = s;
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);
    return s;
}

fm_status fm_fail_context(fm_error *err, fm_status s, const char *fmt, ...) {
    if (!err) return s;
    char inner[sizeof err->message], prefix[256];
    memcpy(inner, err->message, sizeof inner);
    va_list args;
    va_start(args, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, args);
    va_end(args);
    err->status = s;
    /* The prefix is what may be cut: the cause matters more. */
    int n = snprintf(err->message, sizeof err->message, "%s: ", prefix);
    snprintf(err->message + n, sizeof err->message - (size_t)n, "%.*s",
             (int)(sizeof err->message - (size_t)n - 1), inner);
    return s;
}

void fm_error_clear(fm_error *err) {
    err->status = FM_OK;
    err->message[0] = 0;
}
