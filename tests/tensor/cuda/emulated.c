#include "tests/tensor/cuda/emulated.h"

#include <string.h>

fm_status fm_backend_open(int index, fm_error *err, fm_device **out);
void fm_backend_close(fm_device *dev);

static fm_ops filled;

/* Takes whatever the caller passes. */
static fm_status missing(void) { return FM_ERR_UNSUPPORTED; }

fm_status emulated_open(fm_error *err, fm_device **out) {
    FM_TRY(fm_backend_open(0, err, out));
    fm_status (*stand_in)(void) = missing;
    void *slots[sizeof(fm_ops) / sizeof(void *)];
    _Static_assert(sizeof slots == sizeof(fm_ops), "fm_ops is a table of pointers");
    memcpy(slots, (*out)->ops, sizeof slots);
    for (size_t i = 0; i < sizeof slots / sizeof *slots; i++)
        if (!slots[i]) memcpy(&slots[i], &stand_in, sizeof stand_in);
    memcpy(&filled, slots, sizeof slots);
    (*out)->ops = &filled;
    return FM_OK;
}

void emulated_close(fm_device *dev) { fm_backend_close(dev); }
