// What the comparator needs to know of a packet: whose conversation it belongs
// to, and which of its bytes say something.
//
// The rest differs between two machines that say the same.  This is all that is
// not compared, and why:
//
//   Ethernet   addresses            how to get there; padding is not part of the packet
//   IPv4       identification       a counter of the sender; only ties fragments together
//              TTL, TOS, ECN        for routers; the client's application never sees them
//              checksum, options    the first is derived; the second are for routers
//   IPv6       traffic class, flow label, hop limit   likewise
//   TCP        segmentation, PSH    where the sender cut its stream
//              bytes said again     a byte of a stream does not change (RFC 9293, section 3.4)
//              window               room in a buffer; changes from moment to moment
//              timestamps           each machine's own clock; translated after a takeover
//              SACK                 may be taken back (RFC 2018, section 8)
//              ECE, CWR             echo of the path's congestion
//              checksum             derived
//              of a SYN: sequence   chosen at random; the other's is learned from what follows
//   UDP        checksum, length     derived
//   others     a checksum that the sender left to the device
#pragma once

#include <cstddef>
#include <cstdint>

#include "queue.h"

namespace taphold {

enum class FlowKind : uint8_t {
  kTcp,
  kUdp,
  kFragment,  // part of a larger packet, of whatever kind
  kOther,     // whole packets, compared from behind the IP or Ethernet header on
};

// One direction of a conversation: what the guest says to one client.
struct CompareKey {
  uint8_t guest[16];  // IPv4 mapped into IPv6, or an Ethernet address
  uint8_t client[16];
  uint16_t guest_port;  // big endian
  uint16_t client_port;
  uint16_t vlan[2];    // numbers | 0x1000, the outer one first; 0: none
  uint16_t ethertype;  // host order
  uint8_t protocol;
  FlowKind kind;
};
static_assert(sizeof(CompareKey) == 44, "no padding: keys are compared as bytes");

// Reads a packet: fills in the key, and of the record what is in Compared from
// `seq` to `flags`.  False if it makes no sense and belongs to no flow.
bool ParseCompared(Record* record, CompareKey* key);

// Fingerprint of bytes for reports, which must not show them (64-bit FNV-1a).
uint64_t Digest(const uint8_t* bytes, size_t count);

}  // namespace taphold
