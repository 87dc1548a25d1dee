// Reading frames: numbers in network order, and the flags of TCP.
#pragma once

#include <cstdint>
#include <cstring>

namespace taphold {

constexpr uint8_t kTcpFin = 0x01;
constexpr uint8_t kTcpSyn = 0x02;
constexpr uint8_t kTcpRst = 0x04;
constexpr uint8_t kTcpAck = 0x10;
constexpr uint8_t kTcpUrg = 0x20;

inline uint16_t Get16(const uint8_t* at) { return static_cast<uint16_t>(at[0] << 8 | at[1]); }
inline uint32_t Get32(const uint8_t* at) { return uint32_t{Get16(at)} << 16 | Get16(at + 2); }

// Writes an IPv4 address, mapped into IPv6, over zeros.
inline void MapIpv4(uint8_t* to, const uint8_t* address) {
  to[10] = to[11] = 0xff;
  std::memcpy(to + 12, address, 4);
}

}  // namespace taphold
