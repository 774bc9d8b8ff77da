/* fm_fletcher32 against the definition, word by word. HDF5 itself checks it in format_test, where h5py
 * reads what we wrote. */
#include "io/fletcher.h"
#include "tests/io/check.h"

/* As HDF5 folds it: 16 bits on top of each other, which never makes a 0 of what was none. */
static uint32_t fold(uint64_t x) {
    while (x >> 16) x = (x & 0xffff) + (x >> 16);
    return (uint32_t)x;
}
static uint32_t reference(const unsigned char *data, size_t bytes) {
    uint64_t low = 0, high = 0;
    for (size_t i = 0; i + 1 < bytes; i += 2) {
        low = fold(low + (uint64_t)(data[i] << 8 | data[i + 1]));
        high = fold(high + low);
    }
    return fold(high) << 16 | fold(low);
}

static void random_bytes(fm_ctx *ctx) {
    (void)ctx;
    enum { MOST = 70000 };
    static unsigned char data[MOST + 1];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)fm_mix64(i);
    for (size_t n = 0; n < 400; n++) {
        size_t bytes = n < 200 ? 2 * n : 2 * (fm_mix64(n) % (MOST / 2));
        uint32_t got = fm_fletcher32(data + n % 2, bytes), want = reference(data + n % 2, bytes);
        CHECK(got == want, "%zu bytes: %08x, not %08x", bytes, got, want);
        static unsigned char copy[MOST + 2];
        memset(copy, 0x5a, sizeof copy);
        got = fm_fletcher32_copy(copy + 1, data + n % 2, bytes);
        CHECK(got == want, "%zu bytes copied: %08x, not %08x", bytes, got, want);
        CHECK(memcmp(copy + 1, data + n % 2, bytes) == 0 && copy[0] == 0x5a &&
                  copy[bytes + 1] == 0x5a,
              "%zu bytes: not copied", bytes);
    }
}

/* The largest sums, zeros, and sums that are multiples of 65535. */
static void extremes(fm_ctx *ctx) {
    (void)ctx;
    static unsigned char data[1 << 20];
    static const int fills[] = {0, 0xff, 0x55};
    for (int f = 0; f < 3; f++)
        for (size_t bytes = sizeof data; bytes > 1; bytes = bytes / 3 & ~(size_t)1) {
            memset(data, fills[f], bytes);
            uint32_t got = fm_fletcher32(data, bytes), want = reference(data, bytes);
            CHECK(got == want, "%zu of %02x: %08x, not %08x", bytes, (unsigned)fills[f], got, want);
        }
    memset(data, 0, 4096);
    data[100] = 0x80, data[900] = 0x7f, data[901] = 0xff; /* 0x8000 + 0x7fff */
    CHECK(fm_fletcher32(data, 4096) == reference(data, 4096) &&
              (fm_fletcher32(data, 4096) & 0xffff) == 0xffff,
          "%08x", fm_fletcher32(data, 4096));
}

static const test_case cases[] = {{"random_bytes", random_bytes}, {"extremes", extremes}};
TEST_MAIN(cases)
