// The comparator: finds out which packets of the primary's guest the secondary's
// guest has said as well, in whatever packets.  Pure: it does no I/O and reads no
// clock, and belongs to one thread.
//
// What is compared with what.  With each checkpoint the secondary's guest starts
// again from what the primary's was at its STOP, and an epoch begins.  What the
// secondary says in an epoch speaks for what the primary has said after that
// STOP, and for nothing else: a byte that it said before loading a checkpoint is
// no evidence that it will say it again.  And because the next STOP is not known
// before it has passed, nothing is compared that the primary says after the next
// checkpoint was asked for (Suspend), until it is committed.
//
// So with a commit everything is forgotten: what the primary had said before the
// STOP is released, and what the secondary had said is void.
//
// TCP is compared by sequence number, wherever the two have cut their streams.
// From the first packet of the primary on, each byte must have been said by the
// secondary; what it acknowledges the secondary must have acknowledged; and a
// SYN, FIN or RST must have come at the same place.  Everything else is compared
// datagram by datagram, in order.  compare_packet.h says what is ignored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "compare_flow.h"
#include "compare_packet.h"
#include "queue.h"

namespace taphold {

struct CompareLimits {
  // For how long a packet waits for the secondary: between these two, and so
  // long while nothing is known of its flow.
  uint64_t late_min_ns;
  uint64_t late_max_ns;
  uint64_t late_first_ns;
  // What is kept of what the secondary has said in one flow and the primary has
  // not; the oldest goes first.
  uint32_t flow_bytes;
  uint32_t flow_packets;
};

enum class Finding : int {
  kDivergence = 0,     // the two do not say the same
  kLate = 1,           // the secondary has not said it in time
  kAuditMismatch = 2,  // the two do not say the same, and the client has it already
};

// In what they differ.
enum class Difference : int {
  kNothing = 0,  // the secondary is only late
  kPayload = 1,  // a byte, or a datagram
  kEnd = 2,      // only one of them ends the connection here
  kOptions = 3,  // what a SYN offers
};

struct CompareEvent {
  Finding finding;
  Difference difference;
  CompareKey flow;
  uint64_t age_ns;          // since the primary said it
  uint32_t seq;             // TCP: of the first byte that differs, or is missing
  uint32_t offset;          // the same from the start of the primary's packet
  uint32_t primary_bytes;   // payload of the packet that the primary has sent
  uint32_t shadow_bytes;    // and of the one it differs from
  uint64_t primary_digest;  // and fingerprints of these
  uint64_t shadow_digest;
  uint64_t port_matched;    // packets of this port of the guest's that have matched so far
};

// Recent lags in microseconds, by powers of two with four steps each.
struct LagHistogram {
  static constexpr size_t kBuckets = 96;
  uint32_t counts[kBuckets] = {};
  uint32_t total = 0;

  void Add(uint64_t lag_ns);
  // 0 if there is none.
  double QuantileMs(double quantile) const;
};

struct CompareStats {
  uint64_t matched_packets = 0;  // of those held
  uint64_t matched_bytes = 0;
  uint64_t divergences = 0;
  uint64_t late = 0;
  uint64_t audited = 0;  // found equal
  uint64_t audit_mismatches = 0;
  uint64_t unaudited = 0;  // nothing to compare with came
  uint64_t shadow_packets = 0;
  uint64_t shadow_bytes = 0;
  uint64_t shadow_stale = 0;      // said before the checkpoint that counts
  uint64_t shadow_dropped = 0;    // beyond the limits
  uint64_t shadow_malformed = 0;  // on the shadow tap, but not a shadow output
  uint64_t untracked = 0;         // packets of the primary without a flow, or for whose flow there was no room
  LagHistogram lags;
};

class CompareSink {
 public:
  virtual ~CompareSink() = default;
  // Both have said this packet of the primary; the comparator is done with it.
  virtual void Settled(Record* record) = 0;
  // Nothing but a commit releases this packet of the primary; the comparator is done with it.
  virtual void LeftOut(Record* record) = 0;
  virtual void Report(const CompareEvent& event) = 0;
};

class Comparator {
 public:
  explicit Comparator(CompareSink* sink) : sink_(sink) {}

  // Memory is only used as it fills.  Returns errno.
  int Allocate(uint32_t max_flows, size_t shadow_ring_bytes, size_t audit_ring_bytes, uint64_t secret);

  // Starts, with the next commit; or changes limits.
  void Start(const CompareLimits& limits);
  // Forgets everything, and goes on with the next commit.
  void Halt();
  // Or not.
  void Stop();

  // A packet of the primary, held.  If its Compared::flow is not 0 afterwards, it
  // must stay where it is until it is settled, or forgotten, or Commit or Stop was
  // called.
  void Primary(Record* record, uint64_t now_ns);
  // It goes for another reason.
  void Forget(Record* record);
  // A packet of the primary that the client has already; it is copied.
  void Audit(const Record* record, uint64_t now_ns);
  // One that was held leaves before it has matched; likewise.
  void AuditHeld(Record* record, uint64_t now_ns);

  // Room for a packet of the secondary; never nullptr.
  Record* ReserveShadow(size_t max_frame_bytes);
  // It has come, with its epoch.  False if it is of no interest.
  bool KeepShadow(Record* record);
  // Compares it; unless Commit and Resume came in between, which have done so.
  void Shadow(Record* record, uint64_t now_ns);

  // Nothing that the primary has said after this is compared before a commit.
  void Suspend(uint64_t time_ns) { until_ns_ = time_ns < until_ns_ ? time_ns : until_ns_; }
  // The primary stopped at `stop_ns`, the secondary has loaded that, and what it
  // says from then on carries this epoch.  All packets of the primary are
  // forgotten; those sent after `stop_ns` must be given again, and then Resume called.
  void Commit(uint64_t stop_ns, uint32_t epoch);
  void Resume(uint64_t now_ns);

  // Reports those that are late, and returns when to look again, 0: no need to.
  uint64_t CheckLate(uint64_t now_ns);

  // There was a commit to start from.
  bool begun() const { return begun_; }
  const CompareStats& stats() const { return stats_; }
  CompareStats& stats() { return stats_; }

 private:
  enum class Verdict { kWait, kMatch, kDifferent, kNever };

  CompareFlow* FlowOf(const CompareKey& key);
  Record* KeepAudit(const Record* record);
  void Follow(Record* record, uint64_t now_ns);
  void Feed(Record* record, uint64_t now_ns);
  bool FeedTcp(CompareFlow* flow, Record* record);
  void Keep(CompareFlow* flow, Record* record);
  void Drop(CompareFlow* flow, Record* record);
  void DropAll(CompareFlow* flow);
  void Gone(Record* record);
  void Advance(CompareFlow* flow, uint64_t now_ns);
  Verdict Judge(CompareFlow* flow, Record* record);
  Verdict JudgeTcp(CompareFlow* flow, Record* record);
  Verdict JudgePayload(CompareFlow* flow, Record* record);
  Verdict JudgeDatagrams(CompareFlow* flow, Record* record);
  bool FindDatagram(CompareFlow* flow, Record* record, uint32_t unit);
  Verdict Different(Difference difference, uint32_t offset, Record* from);
  void Settle(CompareFlow* flow);
  void GiveUp(CompareFlow* flow);
  void LeaveOut(CompareFlow* flow);
  void Overdue(CompareFlow* flow, uint64_t now_ns);
  void Contradicted(CompareFlow* flow, uint64_t now_ns);
  void Report(Finding finding, CompareFlow* flow, uint64_t now_ns);
  void Wait(CompareFlow* flow);
  void WaitNoMore(CompareFlow* flow);
  uint64_t DueNs(const CompareFlow* flow) const;

  CompareSink* const sink_;
  CompareLimits limits_{};
  bool on_ = false;
  bool begun_ = false;  // there was a commit
  bool full_ = false;   // there was no room for a flow of the primary's since then
  uint64_t since_ns_ = 0;
  uint64_t until_ns_ = ~uint64_t{0};
  uint32_t epoch_ = 0;
  uint32_t generation_ = 1;
  FlowTable flows_;
  Queue shadow_;
  Queue audits_;
  std::vector<uint32_t> waiting_;  // flows with held packets, in no order
  uint64_t due_ns_ = 0;            // when the first of them may be late, 0: never
  // Of the packet judged last: in what it differs, from what.
  Difference difference_ = Difference::kNothing;
  uint32_t offset_ = 0;
  Record* different_from_ = nullptr;
  CompareStats stats_;
  std::vector<uint64_t> port_matched_;  // by the guest's port, as it is in packets
};

}  // namespace taphold
