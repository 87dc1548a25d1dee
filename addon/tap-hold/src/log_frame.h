// What the log thread needs to know of a frame: its connection, and where in it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "frame_bytes.h"
#include "log_tracker.h"
#include "queue.h"
#include "wire.h"

namespace taphold {

struct Frame {
  bool may_ask = false;  // it may be a request, which a reply follows
  bool opaque = false;   // it may hide a request to any service
  uint32_t service = 0;  // protocol << 16 | port of the guest; 0: not known, or not TCP or UDP
  bool tcp = false;  // plain TCP: the rest is valid, and the BPF programs follow its flow
  uint8_t flags = 0;
  uint32_t seq = 0;
  uint32_t ack = 0;
  uint32_t payload_bytes = 0;
  shadow_key key{};

  bool opens() const { return (flags & (kTcpSyn | kTcpAck)) == kTcpSyn; }
  // Sequence number behind it.
  uint32_t end() const {
    return seq + payload_bytes + ((flags & kTcpSyn) ? 1 : 0) + ((flags & kTcpFin) ? 1 : 0);
  }
};

// Reads a frame sent to the guest.  Understands what bpf/tcp_rewrite.h does.
Frame ParseFrame(Record* record);

// Which part of its input a frame is.
Piece PieceOf(Record* record, const Frame& frame);

}  // namespace taphold
