// The two forms of a held packet: behind the gate's tag, as it comes from the
// hold tap, and as the guest sent it, which is how it goes back.
#pragma once

#include <linux/if_ether.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "queue.h"
#include "wire.h"

namespace taphold {

constexpr size_t kVlanBytes = 4;
// The largest packet the kernel hands on unsegmented, its Ethernet header and
// VLAN tags.
constexpr size_t kMaxFrameBytes = 64 * 1024 + ETH_HLEN + 2 * kVlanBytes;

// What the kernel calls virtio_net_hdr; its header is not valid C++.
struct VnetHeader {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t hdr_len;
  uint16_t gso_size;
  uint16_t csum_start;
  uint16_t csum_offset;
};
static_assert(sizeof(VnetHeader) == 10, "the kernel's default header size of a tap");
static_assert(sizeof(VnetHeader) <= sizeof(Record::vnet), "a record keeps the header");

// Moves the tag out of a packet as read from the hold tap, and fills in the
// record.  `head` holds the first HOLD_TAG_BYTES of the packet and the record's
// frame the remaining `rest_bytes`, at most kMaxFrameBytes.  False if the packet
// is not one of the gate's.
bool Untag(const uint8_t* head, size_t rest_bytes, VnetHeader* vnet, Record* record);

// Reads a packet from the hold tap into `record`.  True if it is one of the
// gate's; else *error is the read's errno, or 0 for a malformed packet.
bool ReadPacket(int tap_fd, Record* record, int* error);

// Gives a packet back to the kernel.  False if the kernel refuses it.
bool WritePacket(int tap_fd, Record* record);

}  // namespace taphold
