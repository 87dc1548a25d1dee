// What the comparator remembers of a flow, and the table of flows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "compare_packet.h"

namespace taphold {

// Packets in the order of a flow, linked through Compared::next.
struct PacketList {
  Record* head;
  Record* tail;

  void Append(Record* record);
  // Behind `before`, or at the head if that is nullptr.
  void InsertAfter(Record* before, Record* record);
  void PopHead();
  void Replace(Record* record, Record* by);
  void Remove(Record* record);
};

// How long after the primary's guest the secondary's has said the same, and so
// how long to wait for it: a mean and a deviation as TCP keeps them of its round
// trips (RFC 6298).
struct Lag {
  uint64_t mean_ns;
  uint64_t deviation_ns;
  bool known;

  void Add(uint64_t lag_ns);
  uint64_t LimitNs(uint64_t first_ns, uint64_t min_ns, uint64_t max_ns) const;
};

struct CompareFlow {
  CompareKey key;
  uint32_t next;        // in its bucket, or of the free ones: index + 1
  uint32_t generation;  // what follows, but for `lag`, is of an earlier one, and void
  Lag lag;

  // The rest begins anew with each checkpoint.
  PacketList held;    // of the primary, to be released or audited
  PacketList shadow;  // of the secondary, not used up: TCP by sequence number, others as they came
  uint32_t shadow_bytes;
  uint32_t shadow_packets;
  uint32_t waiting;    // place in the list of those with held packets, 0: not there
  bool reported;       // as late or different
  bool given_up;       // what it holds only waits for a commit

  // TCP.  What lies from `verified_from` to `matched_to` has been found equal.
  uint32_t verified_from;
  uint32_t matched_to;
  bool begun;  // the two above are valid
  // What the secondary has said so far.
  bool shadow_syn, shadow_acked, shadow_fin, shadow_rst;
  uint32_t shadow_options, shadow_ack, shadow_fin_seq, shadow_rst_seq;

  // Fragments: which packet of the primary's is which of the secondary's.
  uint32_t held_identification, shadow_identification;
  bool fragment_begun;

};

// A table of fixed size.
class FlowTable {
 public:
  FlowTable() = default;
  ~FlowTable();
  FlowTable(const FlowTable&) = delete;
  FlowTable& operator=(const FlowTable&) = delete;

  // Memory is only used as the table fills.  Returns errno.
  int Allocate(uint32_t max_flows, uint64_t secret);

  CompareFlow* Find(const CompareKey& key);
  // A fresh flow, or nullptr: the table is full.
  CompareFlow* Add(const CompareKey& key);
  // When it is full: one flow after the other, to find one that can be replaced.
  CompareFlow* Candidate();
  void Replace(CompareFlow* flow, const CompareKey& key);

  CompareFlow* At(uint32_t number) { return &flows_[number - 1]; }
  uint32_t NumberOf(const CompareFlow* flow) const { return static_cast<uint32_t>(flow - flows_) + 1; }
  uint32_t used() const { return used_; }

 private:
  uint32_t* Bucket(const CompareKey& key);
  CompareFlow* Occupy(CompareFlow* flow, const CompareKey& key);

  CompareFlow* flows_ = nullptr;
  uint32_t* buckets_ = nullptr;
  uint32_t max_flows_ = 0;
  uint32_t bucket_mask_ = 0;
  uint32_t used_ = 0;
  uint32_t hand_ = 0;  // the last candidate
  uint64_t secret_ = 0;
};

}  // namespace taphold
