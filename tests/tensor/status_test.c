/* Errors as values, dtypes, activations' names. */
#include "tests/tensor/runner.h"

#include <math.h>
#include <string.h>

static void first_error_stays(test *t) {
    fm_error err = {0};
    EXPECT(t, fm_fail(&err, FM_ERR_SHAPE, "x is %d", 3) == FM_ERR_SHAPE, "not its status");
    EXPECT(t, fm_fail(&err, FM_ERR_IO, "later") == FM_ERR_IO, "not its status");
    EXPECT(t, err.status == FM_ERR_SHAPE && strcmp(err.message, "x is 3") == 0, "%s", err.message);
    fm_fail_context(&err, FM_ERR_SHAPE, "layer %d", 4);
    EXPECT(t, strcmp(err.message, "layer 4: x is 3") == 0, "%s", err.message);
    fm_error_clear(&err);
    EXPECT(t, err.status == FM_OK && err.message[0] == 0, "not cleared");
    EXPECT(t, fm_fail(NULL, FM_ERR_OOM, "nobody listens") == FM_ERR_OOM, "not its status");
}

static void long_messages_are_cut(test *t) {
    fm_error err = {0};
    char text[2 * sizeof err.message];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    fm_fail(&err, FM_ERR_VALUE, "%s", text);
    EXPECT(t, strlen(err.message) == sizeof err.message - 1, "%zu", strlen(err.message));
    fm_fail_context(&err, FM_ERR_VALUE, "%s", text);
    EXPECT(t, strlen(err.message) == sizeof err.message - 1, "%zu", strlen(err.message));
}

static void names(test *t) {
    EXPECT(t, strcmp(fm_status_name(FM_ERR_SHAPE), "FM_ERR_SHAPE") == 0, "name");
    EXPECT(t, strcmp(fm_status_exception(FM_ERR_SHAPE), "ValueError") == 0, "exception");
    EXPECT(t, strcmp(fm_status_text(FM_ERR_OOM), "out of memory") == 0, "text");
    EXPECT(t, fm_dtype_size(FM_BF16) == 2 && fm_dtype_size(FM_I64) == 8, "sizes");
    EXPECT(t, strcmp(fm_dtype_name(FM_BF16), "bfloat16") == 0, "dtype");
    EXPECT(t, strcmp(fm_act_name(FM_ACT_GELU_ERF), "gelu_erf") == 0, "act");
}

static float from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Every bf16 number is kept, and every one between two goes to the nearer, ties to even. */
static void bf16(test *t) {
    for (uint32_t b = 0; b < 0x10000; b++) {
        float f = fm_bf16_to_f32((fm_bf16){(uint16_t)b});
        uint32_t back = fm_f32_to_bf16(f).bits;
        if (isnan(f)) {
            EXPECT(t, isnan(fm_bf16_to_f32((fm_bf16){(uint16_t)back})), "NaN %04x becomes %04x", b,
                   back);
            continue;
        }
        EXPECT(t, back == b, "%04x becomes %04x", b, back);
        if ((b & 0x7fff) >= 0x7f80) continue; /* infinite: nothing follows */
        uint32_t even = b + (b & 1);
        EXPECT(t, fm_f32_to_bf16(from_bits(b << 16 | 0x7fff)).bits == b, "below half at %04x", b);
        EXPECT(t, fm_f32_to_bf16(from_bits(b << 16 | 0x8000)).bits == even, "half at %04x", b);
        EXPECT(t, fm_f32_to_bf16(from_bits(b << 16 | 0x8001)).bits == b + 1, "above at %04x", b);
    }
}

static const test_case cases[] = {{"first_error_stays", first_error_stays},
                                  {"long_messages_are_cut", long_messages_are_cut},
                                  {"names", names},
                                  {"bf16", bf16}};

int main(int argc, char **argv) {
    test t;
    test_init(&t, argc, argv);
    test_run(&t, cases, sizeof cases / sizeof *cases);
    return test_finish(&t);
}
