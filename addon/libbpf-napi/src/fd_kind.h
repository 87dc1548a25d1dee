#pragma once

#include <string>
#include <unistd.h>

namespace libbpf_napi {

// Whether a descriptor that came from a pin is of this kind: "map", "prog" or "link".
// bpf(2) answers a question about a map also for a program, with the program's data; only the
// name of the descriptor tells them apart. Without /proc there is no telling: true.
inline bool FdIs(int fd, const std::string& kind) {
  char target[64];
  std::string link = "/proc/self/fd/" + std::to_string(fd);
  ssize_t length = readlink(link.c_str(), target, sizeof target);
  if (length <= 0) return true;
  std::string name(target, length);
  // Links are "bpf_link" when made and "bpf-link" when opened again.
  return name == "anon_inode:bpf-" + kind || name == "anon_inode:bpf_" + kind;
}

}  // namespace libbpf_napi
