#include "log_frame.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <netinet/in.h>

#include <cstring>

#include "ip_protocols.h"

namespace taphold {
namespace {

constexpr size_t kIpv4Bytes = 20;
constexpr size_t kIpv6Bytes = 40;
constexpr size_t kPortsBytes = 4;
constexpr size_t kTcpBytes = 20;
constexpr uint16_t kIpv4Fragment = 0x3fff;  // more fragments, or not the first
constexpr uint16_t kVlanNumber = 0x0fff;
constexpr uint16_t kVlanPresent = 0x1000;

bool HasPorts(uint8_t protocol) { return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP; }

// `ports_at`: of the TCP or UDP header.
void SetService(Frame* frame, uint8_t protocol, Record* record, size_t ports_at) {
  if (record->frame_bytes < ports_at + kPortsBytes) return;
  frame->service = uint32_t{protocol} << 16 | Get16(record->frame() + ports_at + 2);
  frame->opaque = false;
}

}  // namespace

Frame ParseFrame(Record* record) {
  Frame frame;
  const uint8_t* bytes = record->frame();
  const uint8_t* ip = bytes + ETH_HLEN;
  size_t tcp_at, end;
  switch (record->frame_bytes < ETH_HLEN ? 0 : Get16(bytes + 12)) {
    case ETH_P_8021Q:
    case ETH_P_8021AD:
      frame.opaque = true;
      return frame;
    case ETH_P_IP:
      frame.opaque = true;
      if (record->frame_bytes < ETH_HLEN + kIpv4Bytes) return frame;
      frame.may_ask = frame.opaque = !ipv4_hides_nothing(ip[9]);
      if (!HasPorts(ip[9]) || ip[0] != 0x45 || (Get16(ip + 6) & kIpv4Fragment)) return frame;
      SetService(&frame, ip[9], record, ETH_HLEN + kIpv4Bytes);
      if (ip[9] != IPPROTO_TCP) return frame;
      MapIpv4(frame.key.client, ip + 12);
      MapIpv4(frame.key.guest, ip + 16);
      tcp_at = ETH_HLEN + kIpv4Bytes;
      end = ETH_HLEN + size_t{Get16(ip + 2)};
      break;
    case ETH_P_IPV6:
      frame.opaque = true;
      if (record->frame_bytes < ETH_HLEN + kIpv6Bytes) return frame;
      frame.may_ask = true;
      if (ip[0] >> 4 != 6) return frame;
      if (!HasPorts(ip[6])) {
        bool more = record->frame_bytes > ETH_HLEN + kIpv6Bytes;
        frame.may_ask = frame.opaque = !more || !ipv6_hides_nothing(ip[6], ip[kIpv6Bytes]);
        return frame;
      }
      SetService(&frame, ip[6], record, ETH_HLEN + kIpv6Bytes);
      if (ip[6] != IPPROTO_TCP) return frame;
      std::memcpy(frame.key.client, ip + 8, 16);
      std::memcpy(frame.key.guest, ip + 24, 16);
      tcp_at = ETH_HLEN + kIpv6Bytes;
      end = tcp_at + Get16(ip + 4);
      break;
    default:
      return frame;
  }
  if (end > record->frame_bytes || end < tcp_at + kTcpBytes) return frame;
  const uint8_t* tcp = bytes + tcp_at;
  size_t header_bytes = size_t{tcp[12]} >> 4 << 2;
  if (header_bytes < kTcpBytes || tcp_at + header_bytes > end) return frame;
  std::memcpy(&frame.key.client_port, tcp, 2);
  std::memcpy(&frame.key.guest_port, tcp + 2, 2);
  if (record->vlan_proto) {
    frame.key.vlan = static_cast<uint16_t>((ntohs(record->vlan_tci) & kVlanNumber) | kVlanPresent);
  }
  frame.seq = Get32(tcp + 4);
  frame.ack = Get32(tcp + 8);
  frame.flags = tcp[13];
  frame.payload_bytes = static_cast<uint32_t>(end - tcp_at - header_bytes);
  frame.may_ask = frame.payload_bytes != 0;
  frame.tcp = true;
  return frame;
}

Piece PieceOf(Record* record, const Frame& frame) {
  if (frame.tcp) return {frame.seq, frame.payload_bytes ? frame.payload_bytes : 1};
  uint32_t hash = 2166136261u;  // FNV-1a
  for (size_t i = 0; i < record->frame_bytes; i++) hash = (hash ^ record->frame()[i]) * 16777619u;
  return {hash, 1};
}

}  // namespace taphold
