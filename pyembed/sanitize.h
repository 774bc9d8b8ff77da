#ifndef FM_PYEMBED_SANITIZE_H
#define FM_PYEMBED_SANITIZE_H

/* Tells LeakSanitizer that CPython's objects are roots, not leaks. Between Py_PreInitialize and
 * Py_InitializeFromConfig; does nothing without AddressSanitizer. */
void fm_sanitize_python(void);

#endif
