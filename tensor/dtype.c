#include "tensor/dtype.h"

#include "tensor/backend.h"

size_t fm_dtype_size(fm_dtype t) {
    switch (t) {
#define SIZE(name, number, bytes, text)                                                            \
    case name:                                                                                     \
        return bytes;
        FM_DTYPE_MAP(SIZE)
#undef SIZE
    }
    return 0;
}

const char *fm_dtype_name(fm_dtype t) {
    switch (t) {
#define TEXT(name, number, bytes, text)                                                            \
    case name:                                                                                     \
        return text;
        FM_DTYPE_MAP(TEXT)
#undef TEXT
    }
    return "unknown dtype";
}

const char *fm_act_name(fm_act a) {
    switch (a) {
#define TEXT(name, text)                                                                           \
    case name:                                                                                     \
        return text;
        FM_ACT_MAP(TEXT)
#undef TEXT
    case FM_ACT_COUNT:
        break;
    }
    return "unknown activation";
}
