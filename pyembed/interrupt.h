/* Ctrl-C during a long call: the interpreter sees signals only between its own instructions. */
#ifndef FM_PYEMBED_INTERRUPT_H
#define FM_PYEMBED_INTERRUPT_H
#include <stdbool.h>

/* From here to fm_interrupt_end SIGINT is noticed by fm_interrupted. */
void fm_interrupt_begin(void);
void fm_interrupt_end(void);

/* Whether the call is to end. Lets the script's own handler speak, and only what it raises ends the
 * call: a handler that takes note of the wish to stop, as the Trainer's, lets the call be finished.
 * True: Python's exception is set. Call it without the interpreter's lock; a load where no signal came. */
bool fm_interrupted(void);

#endif
