// The two forms of a packet on a tap of ours: behind the tag that a BPF program
// has put there, as it is read, and as it was sent, which is how it goes back.
#pragma once

#include <linux/if_ether.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "queue.h"
#include "wire.h"

namespace taphold {

constexpr size_t kVlanBytes = 4;
// Of VnetHeader::flags.
constexpr uint8_t kNeedsChecksum = 1;
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

// Takes apart a packet as read from a tap of ours, and fills in the record.
// `head` holds the first `tag_bytes` of the packet, afterwards the tag, which
// begins with a hold_tag; the record's frame holds the remaining `rest_bytes`,
// at most kMaxFrameBytes.  False if the packet has no tag with this magic.
bool Untag(uint32_t magic, uint8_t* head, size_t tag_bytes, size_t rest_bytes, VnetHeader* vnet,
           Record* record);

// Reads a packet into `tag` and `record`.  True if it has such a tag; else
// *error is the read's errno, or 0 for a malformed packet.
bool ReadPacket(int tap_fd, uint32_t magic, void* tag, size_t tag_bytes, Record* record,
                int* error);

// Gives a packet back to the kernel.  False if the kernel refuses it.
bool WritePacket(int tap_fd, Record* record);

}  // namespace taphold
