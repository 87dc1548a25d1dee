// The clock that the kernel programs stamp packets with.
#pragma once

#include <time.h>

#include <cstdint>

namespace taphold {

inline uint64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace taphold
