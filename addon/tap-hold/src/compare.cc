#include "compare.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "frame_bytes.h"
#include "held_packet.h"

namespace taphold {
namespace {

constexpr uint64_t kNever = ~uint64_t{0};
// In Record::flags: it has left already, and is only audited.
constexpr uint16_t kAudit = 0x8000;
// So many datagrams of one flow are searched for the one that fits.
constexpr uint32_t kMaxDatagrams = 64;
// The kernel puts no more into one packet (UDP_MAX_SEGMENTS).
constexpr uint32_t kMaxUnits = 128;
constexpr uint32_t kMaxLagSamples = 4096;
constexpr uint32_t kFragmentOffset = 0x1fff;  // of IPv4; of IPv6 it has other bits

bool Before(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) < 0; }

const uint8_t* PayloadOf(Record* record) { return record->frame() + record->compared.payload_at; }
uint32_t EndOf(const Record* record) { return record->compared.seq + record->compared.payload_bytes; }
bool IsAudit(const Record* record) { return record->flags & kAudit; }

// The datagrams in one packet.
uint32_t UnitsOf(const Record* record) {
  const Compared& c = record->compared;
  if (!c.unit_bytes) return 1;
  uint32_t units = (c.payload_bytes + c.unit_bytes - 1u) / c.unit_bytes;
  return units == 0 || units > kMaxUnits ? 1 : units;
}

struct Bytes {
  const uint8_t* at;
  size_t count;
};

Bytes UnitOf(Record* record, uint32_t unit) {
  const Compared& c = record->compared;
  if (UnitsOf(record) == 1) return {PayloadOf(record), c.payload_bytes};
  size_t start = size_t{unit} * c.unit_bytes;
  return {PayloadOf(record) + start, std::min<size_t>(c.unit_bytes, c.payload_bytes - start)};
}

// But for the two bytes at each of two places.
bool EqualBut(Bytes a, Bytes b, size_t first, size_t second) {
  if (a.count != b.count) return false;
  if (first > second) std::swap(first, second);
  size_t at = 0;
  for (size_t hole : {first, second}) {
    if (hole >= a.count) break;
    if (hole > at && std::memcmp(a.at + at, b.at + at, hole - at) != 0) return false;
    at = std::max(at, std::min(hole + 2, a.count));
  }
  return std::memcmp(a.at + at, b.at + at, a.count - at) == 0;
}

}  // namespace

void LagHistogram::Add(uint64_t lag_ns) {
  if (total >= kMaxLagSamples) {
    total = 0;
    for (uint32_t& count : counts) total += count /= 2;
  }
  uint64_t quarters = lag_ns / 250;  // of a microsecond, so that four steps fit below two
  size_t bucket = 0;
  if (quarters >= 4) {
    unsigned power = 63u - static_cast<unsigned>(__builtin_clzll(quarters));
    bucket = std::min<size_t>((power - 1) * 4 + ((quarters >> (power - 2)) & 3), kBuckets - 1);
  } else {
    bucket = quarters;
  }
  counts[bucket]++;
  total++;
}

double LagHistogram::QuantileMs(double quantile) const {
  uint64_t before = static_cast<uint64_t>(quantile * total), seen = 0;
  for (size_t bucket = 0; bucket < kBuckets; bucket++) {
    seen += counts[bucket];
    if (seen <= before) continue;
    // Where the bucket ends.
    uint64_t next = bucket + 1;
    uint64_t quarters = next < 4 ? next : (4 + next % 4) << (next / 4 - 1);
    return static_cast<double>(quarters) * 250e-6;
  }
  return 0;
}

int Comparator::Allocate(uint32_t max_flows, size_t shadow_ring_bytes, size_t audit_ring_bytes, uint64_t secret) {
  if (int error = flows_.Allocate(max_flows, secret)) return error;
  if (int error = audits_.Allocate(audit_ring_bytes)) return error;
  port_matched_.assign(UINT16_MAX + 1, 0);
  return shadow_.Allocate(shadow_ring_bytes);
}

void Comparator::Start(const CompareLimits& limits) {
  limits_ = limits;
  on_ = true;
}

void Comparator::Halt() {
  Commit(0, 0);
  begun_ = false;
  while (shadow_.front()) shadow_.Pop();
}

void Comparator::Stop() {
  Halt();
  on_ = false;
}

void Comparator::Commit(uint64_t stop_ns, uint32_t epoch) {
  generation_++;  // all flows are void
  waiting_.clear();
  due_ns_ = 0;
  since_ns_ = stop_ns;
  until_ns_ = kNever;
  epoch_ = epoch;
  begun_ = on_;
  full_ = false;
  while (Record* audit = audits_.front()) {
    if (!(audit->flags & kGone)) stats_.unaudited++;
    audits_.Pop();
  }
  for (Record* record = shadow_.front(); record; record = shadow_.After(record)) {
    if (record->compared.epoch == epoch || (record->flags & kGone)) continue;
    if (!record->compared.flow) stats_.shadow_stale++;
    record->flags |= kGone;
  }
}

void Comparator::Resume(uint64_t now_ns) {
  for (Record* record = shadow_.front(); record; record = shadow_.After(record)) {
    if (!(record->flags & kGone)) Feed(record, now_ns);
  }
  while (shadow_.front() && (shadow_.front()->flags & kGone)) shadow_.Pop();
}

CompareFlow* Comparator::FlowOf(const CompareKey& key) {
  CompareFlow* flow = flows_.Find(key);
  // Once a packet was left out for lack of room, no later one of its flow may be
  // let in, or it would overtake.
  if (full_ && (!flow || flow->generation != generation_)) return nullptr;
  if (!flow) flow = flows_.Add(key);
  // Full: another one goes for which nothing waits.
  for (int tries = 16; !flow && tries > 0; tries--) {
    CompareFlow* other = flows_.Candidate();
    if (other->generation == generation_) {
      if (other->held.head) continue;
      DropAll(other);
    }
    flows_.Replace(other, key);
    flow = other;
  }
  if (flow && flow->generation != generation_) {
    CompareFlow fresh{};
    fresh.key = key;
    fresh.next = flow->next;
    fresh.generation = generation_;
    fresh.lag = flow->lag;
    *flow = fresh;
  }
  return flow;
}

void Comparator::Primary(Record* record, uint64_t now_ns) {
  record->compared.flow = 0;
  if (begun_ && record->time_ns > since_ns_ && record->time_ns <= until_ns_) Follow(record, now_ns);
}

void Comparator::Audit(const Record* record, uint64_t now_ns) {
  if (!begun_ || record->time_ns <= since_ns_ || record->time_ns > until_ns_) {
    stats_.unaudited++;
    return;
  }
  Record* copy = KeepAudit(record);
  copy->compared.flow = 0;
  Follow(copy, now_ns);
  if (copy->compared.flow || (copy->flags & kGone)) return;
  stats_.unaudited++;
  copy->flags |= kGone;
}

void Comparator::AuditHeld(Record* record, uint64_t now_ns) {
  if (!record->compared.flow) return Audit(record, now_ns);
  CompareFlow* flow = flows_.At(record->compared.flow);
  if (flow->given_up) {
    stats_.unaudited++;
    return Forget(record);
  }
  Record* copy = KeepAudit(record);
  // In its place: what is held behind it would use up what the secondary has said.
  flow->held.Replace(record, copy);
  record->compared.flow = 0;
  if (flow->held.head == copy) {
    Advance(flow, now_ns);
  } else {
    Wait(flow);
  }
}

// Oldest audits make room.
Record* Comparator::KeepAudit(const Record* record) {
  Record* copy;
  while (!(copy = audits_.Reserve(record->frame_bytes))) {
    if (!(audits_.front()->flags & kGone)) {
      stats_.unaudited++;
      Forget(audits_.front());
    }
    audits_.Pop();
  }
  std::memcpy(static_cast<void*>(copy), record, sizeof(*record) + record->frame_bytes);
  copy->flags = kAudit;
  audits_.Commit(copy);
  return copy;
}

void Comparator::Follow(Record* record, uint64_t now_ns) {
  CompareKey key;
  const bool sensible = ParseCompared(record, &key);
  CompareFlow* flow = sensible ? FlowOf(key) : nullptr;
  if (!flow) {
    stats_.untracked++;
    full_ = full_ || (sensible && !IsAudit(record));
    return;
  }
  if (flow->given_up) return;
  record->compared.flow = flows_.NumberOf(flow);
  record->compared.units_done = 0;
  flow->held.Append(record);
  if (flow->held.head == record) {
    Advance(flow, now_ns);
  } else {
    Wait(flow);  // behind an audit it makes a difference
  }
}

void Comparator::Forget(Record* record) {
  if (!record->compared.flow) return;
  CompareFlow* flow = flows_.At(record->compared.flow);
  flow->held.Remove(record);
  record->compared.flow = 0;
  if (flow->held.head) {
    Wait(flow);
  } else {
    WaitNoMore(flow);
  }
}

Record* Comparator::ReserveShadow(size_t max_frame_bytes) {
  for (;;) {
    if (Record* record = shadow_.Reserve(max_frame_bytes)) return record;
    Record* oldest = shadow_.front();
    if (!(oldest->flags & kGone)) {
      stats_.shadow_dropped++;
      if (oldest->compared.flow) {
        Drop(flows_.At(oldest->compared.flow), oldest);
        continue;  // it was the front, and is gone
      }
    }
    shadow_.Pop();
  }
}

bool Comparator::KeepShadow(Record* record) {
  stats_.shadow_packets++;
  stats_.shadow_bytes += record->frame_bytes;
  if (!on_) return false;
  record->flags = 0;
  record->compared.flow = 0;
  shadow_.Commit(record);
  return true;
}

void Comparator::Shadow(Record* record, uint64_t now_ns) {
  // Of another epoch: it may be the next one, which waits for its commit.
  if (begun_ && record->compared.epoch == epoch_) Feed(record, now_ns);
}

// A packet of the secondary, in its epoch.
void Comparator::Feed(Record* record, uint64_t now_ns) {
  CompareKey key;
  CompareFlow* flow = nullptr;
  if (!ParseCompared(record, &key)) {
    stats_.shadow_malformed++;
  } else if (!(flow = FlowOf(key))) {
    stats_.shadow_dropped++;
  }
  if (!flow || flow->given_up) return Gone(record);
  record->compared.units_done = 0;
  if (key.kind == FlowKind::kTcp && !FeedTcp(flow, record)) {
    Gone(record);
  } else {
    Keep(flow, record);
  }
  if (flow->held.head) Advance(flow, now_ns);
}

// Notes what a segment says.  True if it has bytes that are of use.
bool Comparator::FeedTcp(CompareFlow* flow, Record* record) {
  const Compared& c = record->compared;
  if (c.tcp_flags & kTcpSyn) {
    // A connection begins; what was kept of an earlier one with these ports is void.
    DropAll(flow);
    flow->shadow_syn = true;
    flow->shadow_acked = flow->shadow_fin = flow->shadow_rst = false;
    if (!flow->held.head) flow->begun = false;
    flow->shadow_options = c.options;
  }
  if ((c.tcp_flags & kTcpAck) && (!flow->shadow_acked || Before(flow->shadow_ack, c.ack))) {
    flow->shadow_acked = true;
    flow->shadow_ack = c.ack;
  }
  if (c.tcp_flags & kTcpFin) {
    flow->shadow_fin = true;
    flow->shadow_fin_seq = EndOf(record);
  }
  if (c.tcp_flags & kTcpRst) {
    flow->shadow_rst = true;
    flow->shadow_rst_seq = c.seq;
    return false;
  }
  if (!c.payload_bytes || (c.tcp_flags & kTcpSyn)) return false;
  return !flow->begun || Before(flow->matched_to, EndOf(record));
}

void Comparator::Keep(CompareFlow* flow, Record* record) {
  PacketList& list = flow->shadow;
  bool tcp = flow->key.kind == FlowKind::kTcp;
  record->compared.flow = flows_.NumberOf(flow);
  flow->shadow_bytes += record->frame_bytes;
  flow->shadow_packets++;
  if (!tcp || !list.tail || !Before(record->compared.seq, list.tail->compared.seq)) {
    list.Append(record);
  } else {
    Record* before = nullptr;
    for (Record* at = list.head; !Before(record->compared.seq, at->compared.seq); at = at->compared.next) before = at;
    list.InsertAfter(before, record);
  }
  uint32_t most_packets = tcp ? limits_.flow_packets : std::min(limits_.flow_packets, kMaxDatagrams);
  while (flow->shadow_bytes > limits_.flow_bytes || flow->shadow_packets > most_packets) {
    stats_.shadow_dropped++;
    Drop(flow, list.head);
  }
}

void Comparator::Drop(CompareFlow* flow, Record* record) {
  flow->shadow.Remove(record);
  flow->shadow_bytes -= record->frame_bytes;
  flow->shadow_packets--;
  Gone(record);
}

void Comparator::DropAll(CompareFlow* flow) {
  while (flow->shadow.head) Drop(flow, flow->shadow.head);
}

void Comparator::Gone(Record* record) {
  record->flags |= kGone;
  record->compared.flow = 0;
  if (record != shadow_.front()) return;
  while (shadow_.front() && (shadow_.front()->flags & kGone)) shadow_.Pop();
}

// Settles what can be of what a flow holds.
void Comparator::Advance(CompareFlow* flow, uint64_t now_ns) {
  while (Record* record = flow->held.head) {
    switch (Judge(flow, record)) {
      case Verdict::kMatch: {
        uint64_t lag_ns = now_ns > record->time_ns ? now_ns - record->time_ns : 0;
        flow->lag.Add(lag_ns);
        stats_.lags.Add(lag_ns);
        if (IsAudit(record)) {
          stats_.audited++;
        } else {
          stats_.matched_packets++;
          port_matched_[flow->key.guest_port]++;
          stats_.matched_bytes += record->frame_bytes;
        }
        Settle(flow);
        continue;
      }
      case Verdict::kDifferent:
        return Contradicted(flow, now_ns);
      case Verdict::kNever:
        if (!IsAudit(record)) {
          GiveUp(flow);
          return LeaveOut(flow);
        }
        stats_.unaudited++;
        Settle(flow);
        continue;
      case Verdict::kWait:
        return Wait(flow);
    }
  }
  WaitNoMore(flow);
}

Comparator::Verdict Comparator::Judge(CompareFlow* flow, Record* record) {
  return flow->key.kind == FlowKind::kTcp ? JudgeTcp(flow, record) : JudgeDatagrams(flow, record);
}

Comparator::Verdict Comparator::Different(Difference difference, uint32_t offset, Record* from) {
  difference_ = difference;
  offset_ = offset;
  different_from_ = from;
  return Verdict::kDifferent;
}

Comparator::Verdict Comparator::JudgeTcp(CompareFlow* flow, Record* record) {
  const Compared& c = record->compared;
  if (IsAudit(record)) return JudgePayload(flow, record);
  bool acked = !(c.tcp_flags & kTcpAck) || (flow->shadow_acked && !Before(flow->shadow_ack, c.ack));
  // Urgent data is not in the stream, and nobody uses it.
  if (c.tcp_flags & kTcpUrg) return Verdict::kNever;
  if (c.tcp_flags & kTcpRst) {
    return flow->shadow_rst && flow->shadow_rst_seq == c.seq && acked ? Verdict::kMatch : Verdict::kWait;
  }
  if (c.tcp_flags & kTcpSyn) {
    // The guests choose different numbers, and only those that answer a client are translated.
    if (c.payload_bytes || !(c.tcp_flags & kTcpAck)) return Verdict::kNever;
    if (!flow->shadow_syn || !acked) return Verdict::kWait;
    if (flow->shadow_options != c.options) return Different(Difference::kOptions, 0, nullptr);
    bool repeated = flow->begun && !Before(c.seq + 1, flow->verified_from) && !Before(flow->matched_to, c.seq + 1);
    if (!repeated) flow->verified_from = flow->matched_to = c.seq + 1;
    flow->begun = true;
    return Verdict::kMatch;
  }
  Verdict payload = c.payload_bytes ? JudgePayload(flow, record) : Verdict::kMatch;
  if (payload != Verdict::kMatch) return payload;
  if ((c.tcp_flags & kTcpFin) && !(flow->shadow_fin && flow->shadow_fin_seq == EndOf(record))) {
    Record* more = flow->shadow.head;
    bool goes_on = more && !Before(EndOf(record), more->compared.seq) && Before(EndOf(record), EndOf(more));
    return goes_on ? Different(Difference::kEnd, c.payload_bytes, more) : Verdict::kWait;
  }
  return acked ? Verdict::kMatch : Verdict::kWait;
}

// Goes on through the bytes that both have said.
Comparator::Verdict Comparator::JudgePayload(CompareFlow* flow, Record* record) {
  const uint32_t start = record->compared.seq, end = EndOf(record);
  if (!flow->begun || Before(flow->matched_to, start)) {
    // The first to be compared; or what lies in between has left in another way.
    flow->begun = true;
    flow->verified_from = flow->matched_to = start;
  }
  // Said again, from before what is known to be equal.
  if (Before(start, flow->verified_from)) return Verdict::kNever;
  while (Before(flow->matched_to, end)) {
    Record* other = flow->shadow.head;
    uint32_t offset = flow->matched_to - start;
    if (!other || Before(flow->matched_to, other->compared.seq)) {
      bool ended = (flow->shadow_fin && flow->shadow_fin_seq == flow->matched_to) ||
                   (flow->shadow_rst && flow->shadow_rst_seq == flow->matched_to);
      return ended ? Different(Difference::kEnd, offset, nullptr) : Verdict::kWait;
    }
    if (Before(flow->matched_to, EndOf(other))) {
      uint32_t count = std::min(end - flow->matched_to, EndOf(other) - flow->matched_to);
      const uint8_t* ours = PayloadOf(record) + offset;
      const uint8_t* theirs = PayloadOf(other) + (flow->matched_to - other->compared.seq);
      if (std::memcmp(ours, theirs, count) != 0) {
        uint32_t equal = 0;
        while (ours[equal] == theirs[equal]) equal++;
        return Different(Difference::kPayload, offset + equal, other);
      }
      flow->matched_to += count;
    }
    if (!Before(flow->matched_to, EndOf(other))) Drop(flow, other);
  }
  return Verdict::kMatch;
}

Comparator::Verdict Comparator::JudgeDatagrams(CompareFlow* flow, Record* record) {
  uint32_t& done = record->compared.units_done;
  for (uint32_t units = UnitsOf(record); done < units; done++) {
    if (!FindDatagram(flow, record, done)) return Verdict::kWait;
  }
  return Verdict::kMatch;
}

// Looks for a datagram among the secondary's.  It uses up those before it: what
// left in another way, or what the primary did not say.
bool Comparator::FindDatagram(CompareFlow* flow, Record* record, uint32_t unit) {
  const Bytes wanted = UnitOf(record, unit);
  const Compared& c = record->compared;
  for (Record* other = flow->shadow.head; other; other = other->compared.next) {
    Compared& o = other->compared;
    for (uint32_t i = o.units_done, units = UnitsOf(other); i < units; i++) {
      bool equal = EqualBut(wanted, UnitOf(other, i), c.options, o.options);
      if (equal && flow->key.kind == FlowKind::kFragment) {
        bool first = !(flow->key.ethertype == 0x0800 ? c.seq & kFragmentOffset : c.seq & ~7u);
        bool known = flow->fragment_begun && flow->held_identification == c.ack && flow->shadow_identification == o.ack;
        equal = c.seq == o.seq && (first || known);
        if (equal) {
          flow->fragment_begun = true;
          flow->held_identification = c.ack;
          flow->shadow_identification = o.ack;
        }
      }
      if (!equal) continue;
      while (flow->shadow.head != other) Drop(flow, flow->shadow.head);
      o.units_done = i + 1;
      if (o.units_done == units) Drop(flow, other);
      return true;
    }
  }
  return false;
}

// The first that a flow holds is done with.
void Comparator::Settle(CompareFlow* flow) {
  Record* record = flow->held.head;
  flow->held.PopHead();
  record->compared.flow = 0;
  if (IsAudit(record)) {
    record->flags |= kGone;
  } else {
    sink_->Settled(record);
  }
}

// Nothing more is compared in a flow before the next commit.
void Comparator::GiveUp(CompareFlow* flow) {
  flow->given_up = true;
  DropAll(flow);
  for (Record *record = flow->held.head, *next; record; record = next) {
    next = record->compared.next;
    if (!IsAudit(record)) continue;
    flow->held.Remove(record);
    record->compared.flow = 0;
    record->flags |= kGone;
    stats_.unaudited++;
  }
}

// What a flow that was given up holds waits for a commit, not for being late.
void Comparator::LeaveOut(CompareFlow* flow) {
  while (Record* record = flow->held.head) {
    flow->held.PopHead();
    record->compared.flow = 0;
    sink_->LeftOut(record);
  }
  WaitNoMore(flow);
}

// What the flow's first packet says, the secondary denies.
void Comparator::Contradicted(CompareFlow* flow, uint64_t now_ns) {
  bool audit = IsAudit(flow->held.head);
  audit ? stats_.audit_mismatches++ : stats_.divergences++;
  Report(audit ? Finding::kAuditMismatch : Finding::kDivergence, flow, now_ns);
  if (audit) Settle(flow);
  GiveUp(flow);
  flow->reported = true;
  WaitNoMore(flow);
}

void Comparator::Report(Finding finding, CompareFlow* flow, uint64_t now_ns) {
  Record* record = flow->held.head;
  CompareEvent event{};
  event.finding = finding;
  event.difference = finding == Finding::kLate ? Difference::kNothing : difference_;
  event.flow = flow->key;
  event.port_matched = port_matched_[flow->key.guest_port];
  event.age_ns = now_ns > record->time_ns ? now_ns - record->time_ns : 0;
  event.offset = finding == Finding::kLate ? 0 : offset_;
  event.seq = flow->key.kind == FlowKind::kTcp ? record->compared.seq + event.offset : 0;
  event.primary_bytes = record->compared.payload_bytes;
  event.primary_digest = Digest(PayloadOf(record), record->compared.payload_bytes);
  if (finding != Finding::kLate && different_from_) {
    event.shadow_bytes = different_from_->compared.payload_bytes;
    event.shadow_digest = Digest(PayloadOf(different_from_), event.shadow_bytes);
  }
  sink_->Report(event);
}

uint64_t Comparator::CheckLate(uint64_t now_ns) {
  if (until_ns_ != kNever) return 0;  // a checkpoint is under way
  if (!due_ns_ || now_ns < due_ns_) return due_ns_;
  // Backwards: one that is removed makes room for one that was seen already.
  for (size_t i = waiting_.size(); i-- > 0;) {
    if (i >= waiting_.size()) continue;
    CompareFlow* flow = flows_.At(waiting_[i]);
    if (DueNs(flow) <= now_ns) Overdue(flow, now_ns);
  }
  due_ns_ = 0;
  for (uint32_t number : waiting_) {
    uint64_t due_ns = DueNs(flows_.At(number));
    if (!due_ns_ || due_ns < due_ns_) due_ns_ = due_ns;
  }
  return due_ns_;
}

void Comparator::Overdue(CompareFlow* flow, uint64_t now_ns) {
  Record* record = flow->held.head;
  uint64_t age_ns = now_ns - record->time_ns;
  flow->lag.Add(age_ns);
  if (flow->key.kind != FlowKind::kTcp) {
    // Replies that left in another way have left their like behind. An accusation
    // wants something that was said later, not just at another time.
    const uint64_t since_ns = record->time_ns - (IsAudit(record) ? 0 : std::min(record->time_ns, limits_.late_max_ns));
    while (flow->shadow.head && flow->shadow.head->time_ns < since_ns) Drop(flow, flow->shadow.head);
    if (flow->shadow.head) {
      Different(Difference::kPayload, 0, flow->shadow.head);
      return Contradicted(flow, now_ns);
    }
  }
  if (IsAudit(record)) {
    stats_.unaudited++;
    Settle(flow);
    return Advance(flow, now_ns);
  }
  stats_.late++;
  flow->reported = true;
  WaitNoMore(flow);
  Report(Finding::kLate, flow, now_ns);
}

uint64_t Comparator::DueNs(const CompareFlow* flow) const {
  const Record* record = flow->held.head;
  // Nobody waits for an audit, but for what is held behind it.
  if (IsAudit(record) && !record->compared.next) return record->time_ns + limits_.late_max_ns;
  return record->time_ns + flow->lag.LimitNs(limits_.late_first_ns, limits_.late_min_ns, limits_.late_max_ns);
}

void Comparator::Wait(CompareFlow* flow) {
  if (!flow->held.head || flow->reported) return;
  if (!flow->waiting) {
    waiting_.push_back(flows_.NumberOf(flow));
    flow->waiting = static_cast<uint32_t>(waiting_.size());
  }
  uint64_t due_ns = DueNs(flow);
  if (!due_ns_ || due_ns < due_ns_) due_ns_ = due_ns;
}

void Comparator::WaitNoMore(CompareFlow* flow) {
  if (!flow->waiting) return;
  CompareFlow* last = flows_.At(waiting_.back());
  waiting_[flow->waiting - 1] = waiting_.back();
  last->waiting = flow->waiting;
  waiting_.pop_back();
  flow->waiting = 0;
}

}  // namespace taphold
