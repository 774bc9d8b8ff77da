#include "io/fletcher.h"

#include <string.h>

/* Words in LANES columns and up to ROWS rows: the sums of the columns and the sums of their running
 * sums are plain vector additions, in which 32 bits do not overflow. */
enum { LANES = 32, ROWS = 256, MODULUS = 65535 };

typedef struct sums {
    uint64_t low, high; /* below MODULUS */
    uint64_t any;       /* not 0: some word is not 0 */
} sums;

static void add_rows(sums *s, const unsigned char *data, uint64_t rows) {
    uint32_t column[LANES] = {0}, running[LANES] = {0};
    for (uint64_t r = 0; r < rows; r++) {
        uint16_t words[LANES];
        memcpy(words, data + r * sizeof words, sizeof words);
        for (int l = 0; l < LANES; l++) {
            column[l] += words[l];
            running[l] += column[l];
        }
    }
    /* Word (r, l) counts LANES*(rows - r) - l times; what came before counts LANES*rows times more. */
    uint64_t low = 0, high = 0, late = 0;
    for (uint64_t l = 0; l < LANES; l++) {
        low += column[l];
        high += running[l];
        late += l * column[l];
    }
    s->any |= low;
    s->high = (s->high + s->low * (LANES * rows) + LANES * high - late) % MODULUS;
    s->low = (s->low + low) % MODULUS;
}

static uint32_t written(uint64_t residue, uint64_t any) {
    return residue == 0 && any ? MODULUS : (uint32_t)residue;
}

uint32_t fm_fletcher32_copy(void *to, const void *from, size_t bytes) {
    enum { ROW = LANES * sizeof(uint16_t) };
    unsigned char *at = to;
    const unsigned char *source = from;
    sums s = {0};
    uint64_t rows = bytes / ROW;
    while (rows > 0) { /* so few at a time that the sums find them in the cache */
        uint64_t now = rows < ROWS ? rows : ROWS;
        if (at != source) memcpy(at, source, now * ROW);
        add_rows(&s, at, now);
        at += now * ROW, source += now * ROW;
        rows -= now;
    }
    if (at != source) memcpy(at, source, bytes % ROW);
    for (size_t left = bytes % ROW; left >= 2; left -= 2, at += 2) {
        uint16_t word;
        memcpy(&word, at, sizeof word);
        s.any |= word;
        s.low = (s.low + word) % MODULUS;
        s.high = (s.high + s.low) % MODULUS;
    }
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    /* The bytes of a word change places when it is multiplied by 256, modulo 65535. */
    s.low = s.low * 256 % MODULUS;
    s.high = s.high * 256 % MODULUS;
#endif
    return written(s.high, s.any) << 16 | written(s.low, s.any);
}

uint32_t fm_fletcher32(const void *data, size_t bytes) {
    return fm_fletcher32_copy((void *)(uintptr_t)data, data,
                              bytes); /* in place: nothing is written */
}
