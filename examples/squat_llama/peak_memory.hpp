// The most memory that this process had resident.
#pragma once

namespace squat_llama {

/// Gives freed memory back to the system and starts a new maximum, where the system can do it.
void reset_peak_memory();

/// Bytes, since the last reset; 0 where the system does not tell.
double peak_memory();

}  // namespace squat_llama
