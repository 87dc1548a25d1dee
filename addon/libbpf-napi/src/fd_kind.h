#pragma once

#include <string>
#include <unistd.h>

namespace libbpf_napi {

// Whether a descriptor that came from a pin is of this kind ("bpf-map", "bpf-prog", "bpf_link").
// bpf(2) answers a question about a map also for a program, with the program's data; only the
// name of the descriptor tells them apart. Without /proc there is no telling: true.
inline bool FdIs(int fd, const char* kind) {
  char target[64];
  std::string link = "/proc/self/fd/" + std::to_string(fd);
  ssize_t length = readlink(link.c_str(), target, sizeof target);
  if (length <= 0) return true;
  return std::string(target, length) == std::string("anon_inode:") + kind;
}

}  // namespace libbpf_napi
