#include "held_packet.h"

#include <arpa/inet.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

namespace taphold {
namespace {

constexpr size_t kMacBytes = 12;  // both addresses: a VLAN tag goes behind them

static_assert(sizeof(hold_tag) == HOLD_TAG_BYTES, "the gate writes tags of this size");

}  // namespace

bool Untag(uint32_t magic, uint8_t* head, size_t tag_bytes, size_t rest_bytes, VnetHeader* vnet,
           Record* record) {
  record->vlan_proto = 0;

  uint16_t type;
  std::memcpy(&type, head + kMacBytes, sizeof(type));
  if (type == htons(ETH_P_8021Q) || type == htons(ETH_P_8021AD)) {
    // The kernel put the frame's VLAN tag into ours: the last bytes of ours
    // are the first of the rest.
    if (rest_bytes < kVlanBytes) return false;
    record->vlan_proto = type;
    std::memcpy(&record->vlan_tci, head + kMacBytes + 2, sizeof(record->vlan_tci));
    std::memmove(head + kMacBytes, head + kMacBytes + kVlanBytes,
                 tag_bytes - kMacBytes - kVlanBytes);
    std::memcpy(head + tag_bytes - kVlanBytes, record->frame(), kVlanBytes);
    rest_bytes -= kVlanBytes;
    std::memmove(record->frame(), record->frame() + kVlanBytes, rest_bytes);
  }

  hold_tag tag;
  std::memcpy(&tag, head, sizeof(tag));
  if (tag.ethertype != htons(HOLD_ETHERTYPE) || tag.magic != magic || rest_bytes < ETH_HLEN) {
    return false;
  }
  // A segment of a packet is shorter than the packet that was tagged.
  if (rest_bytes != tag.frame_bytes && (rest_bytes > tag.frame_bytes || !tag.gso_size)) return false;
  // Offsets were counted from the tag.  A VLAN tag counts before and after.
  if (vnet->flags & kNeedsChecksum) {
    if (vnet->csum_start < tag_bytes) return false;
    vnet->csum_start = static_cast<uint16_t>(vnet->csum_start - tag_bytes);
  }
  vnet->hdr_len = vnet->hdr_len < tag_bytes ? 0 : static_cast<uint16_t>(vnet->hdr_len - tag_bytes);
  record->time_ns = tag.time_ns;
  record->iseq = tag.needs_iseq;
  record->frame_bytes = static_cast<uint32_t>(rest_bytes);
  std::memcpy(record->vnet, vnet, sizeof(*vnet));
  return true;
}

bool ReadPacket(int tap_fd, uint32_t magic, void* tag, size_t tag_bytes, Record* record,
                int* error) {
  VnetHeader vnet{};
  auto head = static_cast<uint8_t*>(tag);
  uint8_t beyond;  // a packet that reaches here is longer than any of the gate's
  iovec parts[] = {{&vnet, sizeof(vnet)},
                   {head, tag_bytes},
                   {record->frame(), kMaxFrameBytes},
                   {&beyond, sizeof(beyond)}};
  const size_t overhead_bytes = sizeof(vnet) + tag_bytes;
  ssize_t bytes;
  do {
    bytes = readv(tap_fd, parts, sizeof(parts) / sizeof(*parts));
  } while (bytes < 0 && errno == EINTR);
  *error = bytes < 0 ? errno : 0;
  if (bytes < static_cast<ssize_t>(overhead_bytes)) return false;
  size_t rest_bytes = static_cast<size_t>(bytes) - overhead_bytes;
  return rest_bytes <= kMaxFrameBytes && Untag(magic, head, tag_bytes, rest_bytes, &vnet, record);
}

bool WritePacket(int tap_fd, Record* record) {
  uint16_t vlan[2] = {record->vlan_proto, record->vlan_tci};
  uint8_t* frame = record->frame();
  iovec parts[4];
  int count = 0;
  parts[count++] = {record->vnet, sizeof(VnetHeader)};
  if (record->vlan_proto) {
    parts[count++] = {frame, kMacBytes};
    parts[count++] = {vlan, sizeof(vlan)};
    parts[count++] = {frame + kMacBytes, record->frame_bytes - kMacBytes};
  } else {
    parts[count++] = {frame, record->frame_bytes};
  }
  for (;;) {
    if (writev(tap_fd, parts, count) >= 0) return true;
    if (errno != EINTR) return false;
  }
}

}  // namespace taphold
