#include "tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

// UDP segmentation offload came with Linux 6.2; older headers lack the names.
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

namespace taphold {
namespace {

constexpr unsigned kTcpOffloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
constexpr unsigned kUdpOffloads = TUN_F_USO4 | TUN_F_USO6;

// Newer kernels (7.2, not yet 6.18) limit the length without telling to what: halve it until it fits.
SysError SetQueueLength(int socket_fd, ifreq* request, unsigned packets) {
  for (; packets > 0; packets /= 2) {
    request->ifr_qlen = static_cast<int>(packets);
    if (ioctl(socket_fd, SIOCSIFTXQLEN, request) == 0) return {};
    if (errno != ERANGE) break;
  }
  return {"ioctl(SIOCSIFTXQLEN)", errno};
}

SysError Configure(int socket_fd, int tap_fd, ifreq* request, unsigned queue_packets,
                   unsigned* ifindex) {
  // Without these a GSO packet would be segmented on its way to us.
  if (ioctl(tap_fd, TUNSETOFFLOAD, kTcpOffloads | kUdpOffloads) < 0 &&
      ioctl(tap_fd, TUNSETOFFLOAD, kTcpOffloads) < 0) {
    return {"ioctl(TUNSETOFFLOAD)", errno};
  }
  if (SysError failed = SetQueueLength(socket_fd, request, queue_packets)) return failed;
  if (ioctl(socket_fd, SIOCGIFFLAGS, request) < 0) return {"ioctl(SIOCGIFFLAGS)", errno};
  request->ifr_flags = static_cast<short>(request->ifr_flags | IFF_UP | IFF_NOARP);
  if (ioctl(socket_fd, SIOCSIFFLAGS, request) < 0) return {"ioctl(SIOCSIFFLAGS)", errno};
  if (ioctl(socket_fd, SIOCGIFINDEX, request) < 0) return {"ioctl(SIOCGIFINDEX)", errno};
  *ifindex = static_cast<unsigned>(request->ifr_ifindex);
  return {};
}

}  // namespace

SysError OpenTap(const std::string& name, unsigned queue_packets, int* fd, unsigned* ifindex) {
  ifreq request{};
  std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL;

  int tap_fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tap_fd < 0) return {"open(/dev/net/tun)", errno};
  if (ioctl(tap_fd, TUNSETIFF, &request) < 0) {
    SysError failed{"ioctl(TUNSETIFF)", errno};
    close(tap_fd);
    return failed;
  }
  int socket_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  SysError failed = socket_fd < 0 ? SysError{"socket(AF_INET)", errno}
                                  : Configure(socket_fd, tap_fd, &request, queue_packets, ifindex);
  if (socket_fd >= 0) close(socket_fd);
  if (failed) {
    close(tap_fd);
    return failed;
  }
  *fd = tap_fd;
  return {};
}

}  // namespace taphold
