/* Lines in the log of a process in which Go cannot run. */
#ifndef NOTICE_H
#define NOTICE_H

#include "settings.h"

/* Writes a warning to where the configuration wants the log; to the system's if that file cannot be written here. What cannot be
   written is lost. */
void notice(const struct settings *settings, const char *text);

#endif
