// How long packets were held, by what released them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace taphold {

enum class Release : int {
  kCommit = 0,  // the other host has loaded a checkpoint with the state behind it
  kLogged = 1,  // the inputs behind it have reached the other host's log
  kMatch = 2,   // the other host's guest has said the same
  kEnd = 3,     // the protection has ended
};
constexpr size_t kReleases = 4;

// Upper bounds of the histogram's buckets, each inclusive; one more has the rest.
constexpr uint64_t kHoldBoundsNs[] = {
    100'000,    250'000,     500'000,     1'000'000,   2'500'000,     5'000'000,     10'000'000,   25'000'000,
    50'000'000, 100'000'000, 250'000'000, 500'000'000, 1'000'000'000, 2'500'000'000, 5'000'000'000};
constexpr size_t kHoldBounds = sizeof(kHoldBoundsNs) / sizeof(kHoldBoundsNs[0]);

struct HoldTimes {
  uint64_t packets[kHoldBounds + 1] = {};  // by bucket
  uint64_t total_ns = 0;

  void Add(uint64_t hold_ns) {
    size_t bucket = 0;
    while (bucket < kHoldBounds && hold_ns > kHoldBoundsNs[bucket]) bucket++;
    packets[bucket]++;
    total_ns += hold_ns;
  }
};

}  // namespace taphold
