#ifndef FM_PYEMBED_INFO_H
#define FM_PYEMBED_INFO_H

#define FM_VERSION "0.1.0"

/* For train --version and --info; both give an exit status. */
int fm_print_version(void);
int fm_print_info(void);

#endif
