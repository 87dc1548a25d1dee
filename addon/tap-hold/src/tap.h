// A tap device of our own, opened for packets with a virtio-net header.
#pragma once

#include <string>

namespace taphold {

// A failed system call: what was tried, and errno.
struct SysError {
  const char* operation = nullptr;
  int error = 0;
  explicit operator bool() const { return error != 0; }
};

// Creates the tap `name` in the calling thread's network namespace, sets its
// transmit queue length, and brings it up.  The device lives as long as *fd.
SysError OpenTap(const std::string& name, unsigned queue_packets, int* fd, unsigned* ifindex);

}  // namespace taphold
