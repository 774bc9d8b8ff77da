/* Ctrl-C during a long call: the interpreter sees signals only between its own instructions. */
#ifndef FM_PYEMBED_INTERRUPT_H
#define FM_PYEMBED_INTERRUPT_H
#include <stdbool.h>

/* From here to fm_interrupt_end SIGINT also sets the flag that is returned. */
const volatile bool *fm_interrupt_begin(void);
void fm_interrupt_end(void);

/* After FM_ERR_INTERRUPTED: lets Python's own handler speak; sees to it that an exception is set. */
void fm_interrupt_raise(void);

#endif
