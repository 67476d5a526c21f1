#pragma once

#include <stdint.h>

namespace fusegrad {

// The scratch memory that all threads hold, in bytes.
int64_t scratch_bytes();

// Whether this process was forked, maybe from one with threads, which it lacks.
bool is_forked();

// Frees the scratch memory of this thread and of those that work for it.
void empty_cache();

}  // namespace fusegrad
