// The packets that a thread keeps, in the order they came, in one preallocated ring of bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace taphold {

struct Record;

// What the comparator knows of a packet: see compare_packet.h.
struct Compared {
  Record* next;            // in its flow
  uint32_t flow;           // 0: it is in none
  uint32_t epoch;          // of a shadow output: see shadow_tag
  uint32_t seq;            // of TCP; of a fragment, its place
  uint32_t ack;            // of TCP; of a fragment, its identification
  uint32_t options;        // of a SYN; of other packets, where not to look
  uint32_t payload_at;     // in the frame
  uint32_t payload_bytes;
  uint32_t units_done;     // datagrams in here that have been compared
  uint16_t unit_bytes;     // length of all datagrams in here but the last, 0: there is one
  uint8_t tcp_flags;
};

// What is remembered of a packet; the packet follows it in the ring.
struct Record {
  uint64_t time_ns;      // when the guest sent it; of input, when it came here
  uint64_t iseq;         // of input, its number; of output, what it needs: see hold_tag
  uint32_t frame_bytes;  // length of the frame that follows
  uint32_t span_bytes;   // distance to the next record, 0: go on at the ring's start
  uint16_t vlan_proto;   // big endian, 0: no VLAN tag
  uint16_t vlan_tci;     // big endian
  uint8_t vnet[10];      // virtio-net header of the frame without our tag
  uint16_t flags;        // of input, enum log_flags; of output, those below
  Compared compared;     // of output, while both machines' are compared
  uint8_t* frame() { return reinterpret_cast<uint8_t*>(this + 1); }
};

// In Record::flags, of output: it has gone, though older ones are still here.
constexpr uint16_t kGone = 1;
// Likewise: it is not to be compared.
constexpr uint16_t kUncompared = 2;
// Likewise: it is to be audited if the input log releases it.
constexpr uint16_t kSampled = 4;

// Not thread safe: it belongs to that thread.
class Queue {
 public:
  Queue() = default;
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Reserves address space for the ring; memory is only used as it fills.
  // Returns errno.
  int Allocate(size_t ring_bytes);

  // Room for a record with a frame of up to max_frame_bytes, or nullptr when
  // full.  Nothing is queued before Commit.
  Record* Reserve(size_t max_frame_bytes);
  void Commit(Record* record);

  Record* front() const { return packets_ ? At(head_) : nullptr; }
  // The one that came after a queued one, or nullptr.
  Record* After(const Record* record) const;
  void Pop();

  size_t packets() const { return packets_; }
  size_t bytes() const { return frame_bytes_; }

 private:
  Record* At(size_t offset) const { return reinterpret_cast<Record*>(ring_ + offset); }

  uint8_t* ring_ = nullptr;
  size_t ring_bytes_ = 0;
  size_t head_ = 0;  // oldest record
  size_t tail_ = 0;  // where the next one goes
  size_t packets_ = 0;
  size_t frame_bytes_ = 0;
};

}  // namespace taphold
