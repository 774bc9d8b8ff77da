/* Read before every source by ./dev tidy alone: fm_fail returns its second argument, which
 * the analyzer cannot know, and without which it follows paths that a failure ends. */
#pragma once
#include "tensor/status.h"
#define fm_fail(err, code, ...) ((void)(fm_fail)(err, code, __VA_ARGS__), (code))
