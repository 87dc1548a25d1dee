// Packets as two machines may send them, for tests of the comparator.
#pragma once

#include <linux/if_ether.h>
#include <netinet/in.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "frame_bytes.h"
#include "held_packet.h"

namespace said {

using Frame = std::vector<uint8_t>;

inline void Put16(Frame* to, uint32_t value) {
  to->push_back(static_cast<uint8_t>(value >> 8));
  to->push_back(static_cast<uint8_t>(value));
}
inline void Put32(Frame* to, uint32_t value) {
  Put16(to, value >> 16);
  Put16(to, value & 0xffff);
}
inline void Put(Frame* to, const std::string& bytes) { to->insert(to->end(), bytes.begin(), bytes.end()); }

// What the two machines may do differently without saying anything else.
struct Manner {
  uint16_t identification = 7;
  uint8_t ttl = 64;
  uint16_t window = 500;
  uint32_t timestamp = 1000;
};

struct Segment {
  uint32_t seq = 0;
  std::string payload{};
  uint8_t flags = taphold::kTcpAck;
  uint32_t ack = 5000;
  uint16_t port = 40000;
  uint16_t mss = 1460;  // of a SYN
  bool ipv6 = false;
};

inline Frame Ethernet(uint16_t type, const Frame& body) {
  Frame frame(12, 2);
  Put16(&frame, type);
  frame.insert(frame.end(), body.begin(), body.end());
  return frame;
}

inline Frame Ipv4(uint8_t protocol, const Frame& body, Manner manner, uint16_t fragment = 0x4000) {
  Frame ip{0x45, 0};
  Put16(&ip, static_cast<uint32_t>(20 + body.size()));
  Put16(&ip, manner.identification);
  Put16(&ip, fragment);
  ip.insert(ip.end(), {manner.ttl, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2});
  ip.insert(ip.end(), body.begin(), body.end());
  return Ethernet(ETH_P_IP, ip);
}

inline Frame Ipv6(uint8_t next, const Frame& body, Manner manner) {
  Frame ip{0x60, 0, 0, 0};
  Put16(&ip, static_cast<uint32_t>(body.size()));
  ip.insert(ip.end(), {next, manner.ttl});
  Frame addresses(32, 0xfd);
  addresses[31] = 2;
  ip.insert(ip.end(), addresses.begin(), addresses.end());
  ip.insert(ip.end(), body.begin(), body.end());
  return Ethernet(ETH_P_IPV6, ip);
}

inline Frame Tcp(const Segment& s, Manner manner = {}) {
  Frame tcp;
  Put16(&tcp, 80);
  Put16(&tcp, s.port);
  Put32(&tcp, s.seq);
  Put32(&tcp, (s.flags & taphold::kTcpAck) ? s.ack : 0);
  bool syn = s.flags & taphold::kTcpSyn;
  tcp.push_back(syn ? 0xa0 : 0x80);
  tcp.push_back(s.flags);
  Put16(&tcp, manner.window);
  Put32(&tcp, 0);
  if (syn) {
    tcp.insert(tcp.end(), {2, 4});
    Put16(&tcp, s.mss);
    tcp.insert(tcp.end(), {4, 2, 8, 10});
  } else {
    tcp.insert(tcp.end(), {1, 1, 8, 10});
  }
  Put32(&tcp, manner.timestamp);
  Put32(&tcp, manner.timestamp - 3);
  if (syn) tcp.insert(tcp.end(), {1, 3, 3, 7});
  Put(&tcp, s.payload);
  return s.ipv6 ? Ipv6(IPPROTO_TCP, tcp, manner) : Ipv4(IPPROTO_TCP, tcp, manner);
}

inline Frame Udp(const std::string& payload, Manner manner = {}, uint16_t port = 40000) {
  Frame udp;
  Put16(&udp, 53);
  Put16(&udp, port);
  Put16(&udp, static_cast<uint32_t>(8 + payload.size()));
  Put16(&udp, manner.identification);  // a checksum, which says nothing either
  Put(&udp, payload);
  return Ipv4(IPPROTO_UDP, udp, manner);
}

}  // namespace said
