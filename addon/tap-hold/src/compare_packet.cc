#include "compare_packet.h"

#include <linux/if_ether.h>
#include <netinet/in.h>

#include <cstring>

#include "frame_bytes.h"
#include "held_packet.h"

namespace taphold {
namespace {

constexpr size_t kMacBytes = 6;
constexpr size_t kIpv4Bytes = 20;
constexpr size_t kIpv6Bytes = 40;
constexpr size_t kTcpBytes = 20;
constexpr size_t kUdpBytes = 8;
constexpr size_t kFragmentBytes = 8;  // of IPv6
constexpr uint16_t kIpv4Fragment = 0x3fff;
constexpr uint16_t kVlanNumber = 0x0fff;
constexpr uint16_t kVlanPresent = 0x1000;

// MSS, window scale, and whether selective acknowledgements and timestamps are
// offered: what a client remembers of a SYN.
uint32_t SynOptions(const uint8_t* option, const uint8_t* end) {
  uint32_t mss = 0, scale = 0, offers = 0;
  while (option < end && *option != 0) {
    if (*option == 1) {
      option++;
      continue;
    }
    if (end - option < 2 || option[1] < 2 || option[1] > end - option) break;
    switch (option[0] << 8 | option[1]) {
      case 0x0204: mss = Get16(option + 2); break;
      case 0x0303: scale = option[2]; offers |= 1; break;
      case 0x0402: offers |= 2; break;
      case 0x080a: offers |= 4; break;
    }
    option += option[1];
  }
  return mss << 16 | scale << 8 | offers;
}

// Where the bytes of a packet are, behind all that was understood so far.
struct Rest {
  const uint8_t* frame;
  size_t at;
  size_t end;
  size_t bytes() const { return end - at; }
};

bool ParseTransport(const Rest& rest, CompareKey* key, Compared* out) {
  const uint8_t* header = rest.frame + rest.at;
  size_t header_bytes = 0;
  switch (key->protocol) {
    case IPPROTO_TCP:
      if (rest.bytes() < kTcpBytes) return false;
      header_bytes = size_t{header[12]} >> 4 << 2;
      if (header_bytes < kTcpBytes || header_bytes > rest.bytes()) return false;
      key->kind = FlowKind::kTcp;
      out->seq = Get32(header + 4);
      out->ack = Get32(header + 8);
      out->tcp_flags = header[13];
      if (out->tcp_flags & kTcpSyn) out->options = SynOptions(header + kTcpBytes, header + header_bytes);
      break;
    case IPPROTO_UDP:
      if (rest.bytes() < kUdpBytes) return false;
      header_bytes = kUdpBytes;
      key->kind = FlowKind::kUdp;
      break;
    default:
      break;
  }
  if (header_bytes) {
    std::memcpy(&key->guest_port, header, 2);
    std::memcpy(&key->client_port, header + 2, 2);
  }
  out->payload_at = static_cast<uint32_t>(rest.at + header_bytes);
  out->payload_bytes = static_cast<uint32_t>(rest.bytes() - header_bytes);
  return true;
}

// `place` is the offset and whether more follow, `identification` ties them together.
bool Fragment(const Rest& rest, uint32_t place, uint32_t identification, CompareKey* key, Compared* out) {
  key->kind = FlowKind::kFragment;
  out->seq = place;
  out->ack = identification;
  out->payload_at = static_cast<uint32_t>(rest.at);
  out->payload_bytes = static_cast<uint32_t>(rest.bytes());
  return true;
}

bool ParseIpv4(Rest rest, CompareKey* key, Compared* out) {
  const uint8_t* ip = rest.frame + rest.at;
  if (rest.bytes() < kIpv4Bytes || ip[0] >> 4 != 4) return false;
  size_t header_bytes = (ip[0] & 0xfu) * 4, total_bytes = Get16(ip + 2);
  if (header_bytes < kIpv4Bytes || total_bytes < header_bytes || total_bytes > rest.bytes()) return false;
  MapIpv4(key->guest, ip + 12);
  MapIpv4(key->client, ip + 16);
  key->protocol = ip[9];
  rest.end = rest.at + total_bytes;
  rest.at += header_bytes;
  uint16_t fragment = Get16(ip + 6) & kIpv4Fragment;
  if (fragment) return Fragment(rest, fragment, Get16(ip + 4), key, out);
  return ParseTransport(rest, key, out);
}

bool ParseIpv6(Rest rest, CompareKey* key, Compared* out) {
  const uint8_t* ip = rest.frame + rest.at;
  if (rest.bytes() < kIpv6Bytes || ip[0] >> 4 != 6) return false;
  size_t payload_bytes = Get16(ip + 4);
  if (payload_bytes > rest.bytes() - kIpv6Bytes) return false;
  std::memcpy(key->guest, ip + 8, 16);
  std::memcpy(key->client, ip + 24, 16);
  key->protocol = ip[6];
  rest.at += kIpv6Bytes;
  rest.end = rest.at + payload_bytes;
  if (key->protocol == IPPROTO_FRAGMENT && rest.bytes() >= kFragmentBytes) {
    const uint8_t* header = rest.frame + rest.at;
    key->protocol = header[0];
    rest.at += kFragmentBytes;
    return Fragment(rest, Get16(header + 2), Get32(header + 4), key, out);
  }
  return ParseTransport(rest, key, out);
}

}  // namespace

bool ParseCompared(Record* record, CompareKey* key) {
  Rest rest{record->frame(), ETH_HLEN, record->frame_bytes};
  if (record->frame_bytes < ETH_HLEN) return false;
  std::memset(key, 0, sizeof(*key));
  key->kind = FlowKind::kOther;
  Compared* out = &record->compared;
  VnetHeader vnet;
  std::memcpy(&vnet, record->vnet, sizeof(vnet));
  out->seq = out->ack = 0;
  out->options = ~0u;
  out->tcp_flags = 0;
  out->unit_bytes = vnet.gso_type ? vnet.gso_size : uint16_t{0};

  size_t vlans = 0;
  if (record->vlan_proto) key->vlan[vlans++] = (ntohs(record->vlan_tci) & kVlanNumber) | kVlanPresent;
  uint16_t ethertype = Get16(rest.frame + ETH_HLEN - 2);
  while ((ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD) && vlans < 2 && rest.bytes() >= kVlanBytes) {
    key->vlan[vlans++] = (Get16(rest.frame + rest.at) & kVlanNumber) | kVlanPresent;
    ethertype = Get16(rest.frame + rest.at + 2);
    rest.at += kVlanBytes;
  }
  key->ethertype = ethertype;
  bool good = true;
  switch (ethertype) {
    case ETH_P_IP: good = ParseIpv4(rest, key, out); break;
    case ETH_P_IPV6: good = ParseIpv6(rest, key, out); break;
    default:
      std::memcpy(key->client, rest.frame, kMacBytes);
      std::memcpy(key->guest, rest.frame + kMacBytes, kMacBytes);
      out->payload_at = static_cast<uint32_t>(rest.at);
      out->payload_bytes = static_cast<uint32_t>(rest.bytes());
  }
  if (good && key->kind == FlowKind::kOther) {
    // Where its checksum would go, if it is left to the device.
    size_t checksum_at = size_t{vnet.csum_start} + vnet.csum_offset;
    bool partial = (vnet.flags & kNeedsChecksum) && checksum_at >= out->payload_at;
    if (partial) out->options = static_cast<uint32_t>(checksum_at - out->payload_at);
  }
  return good;
}

uint64_t Digest(const uint8_t* bytes, size_t count) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < count; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return hash;
}

}  // namespace taphold
