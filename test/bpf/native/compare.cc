// The comparator: what counts as said by both, what does not, and when it says so.
#include "compare.h"

#include <deque>
#include <random>

#include "check.h"
#include "said.h"

using namespace taphold;
using namespace said;

namespace {

constexpr uint64_t kMs = 1'000'000;
const CompareLimits kLimits{2 * kMs, 100 * kMs, 20 * kMs, 1 << 20, 1024};

// A comparator whose primary's packets are numbered as they come.
class Rig : public CompareSink {
 public:
  explicit Rig(CompareLimits limits = kLimits, uint32_t max_flows = 64, size_t ring_bytes = 4 << 20) {
    CHECK(comparator_.Allocate(max_flows, ring_bytes, 1 << 20, 42) == 0);
    CHECK(held_.Allocate(4 << 20) == 0);
    comparator_.Start(limits);
    Commit(1);
  }

  void Settled(Record* record) override {
    record->flags |= kGone;
    settled.push_back(static_cast<int>(record->iseq));
  }
  void LeftOut(Record* record) override { left_out.push_back(static_cast<int>(record->iseq)); }
  void Report(const CompareEvent& event) override { events.push_back(event); }

  // As the hold thread does it.
  void Commit(uint32_t epoch) {
    stop_ns_ = now_ns;
    comparator_.Commit(stop_ns_, epoch);
    while (Record* record = held_.front()) {
      if (record->time_ns > stop_ns_ && !(record->flags & kGone)) break;
      held_.Pop();
    }
    for (Record* record = held_.front(); record; record = held_.After(record)) {
      if (!(record->flags & kGone)) comparator_.Primary(record, now_ns);
    }
    comparator_.Resume(now_ns);
    epoch_ = epoch;
    now_ns += kMs;
  }

  Record* Says(const Frame& frame, uint16_t unit_bytes = 0) {
    Record* record = held_.Reserve(frame.size());
    CHECK(record);
    Fill(record, frame, unit_bytes);
    record->iseq = static_cast<uint64_t>(++said_);
    held_.Commit(record);
    comparator_.Primary(record, now_ns);
    followed = record->compared.flow || (record->flags & kGone);
    return record;
  }
  void Audits(const Frame& frame) {
    Record* record = held_.Reserve(frame.size());
    Fill(record, frame, 0);
    comparator_.Audit(record, now_ns);
  }

  // What was said leaves before it has matched, and is audited.
  void Leaves(Record* record) {
    record->flags |= kGone;
    comparator_.AuditHeld(record, now_ns);
  }

  void Shadow(const Frame& frame, uint16_t unit_bytes = 0, uint32_t epoch = 0) {
    Record* record = comparator_.ReserveShadow(frame.size());
    Fill(record, frame, unit_bytes);
    record->compared.epoch = epoch ? epoch : epoch_;
    CHECK(comparator_.KeepShadow(record));
    comparator_.Shadow(record, now_ns);
  }

  void Forget(Record* record) {
    comparator_.Forget(record);
    record->flags |= kGone;
  }
  void Suspend() { comparator_.Suspend(now_ns); }
  uint64_t After(uint64_t ms) {
    now_ns += ms * kMs;
    return comparator_.CheckLate(now_ns);
  }
  Comparator& comparator() { return comparator_; }
  const CompareStats& stats() const { return comparator_.stats(); }

  uint64_t now_ns = 1000 * kMs;
  std::vector<int> settled{};
  std::vector<int> left_out{};
  std::vector<CompareEvent> events{};
  bool followed = false;

 private:
  void Fill(Record* record, const Frame& frame, uint16_t unit_bytes) {
    std::memset(record, 0, sizeof(*record));
    std::memcpy(record->frame(), frame.data(), frame.size());
    record->frame_bytes = static_cast<uint32_t>(frame.size());
    record->time_ns = now_ns;
    VnetHeader vnet{};
    vnet.gso_type = unit_bytes ? 5 : 0;
    vnet.gso_size = unit_bytes;
    std::memcpy(record->vnet, &vnet, sizeof(vnet));
  }

  Comparator comparator_{this};
  Queue held_;
  uint64_t stop_ns_ = 0;
  uint32_t epoch_ = 0;
  int said_ = 0;
};

using Numbers = std::vector<int>;
const Manner kOther{99, 63, 400, 77777};

void SameInOtherPackets() {
  for (bool ipv6 : {false, true}) {
    Rig rig;
    rig.Says(Tcp({100, "hello ", kTcpAck, 5000, 40000, 0, ipv6}));
    rig.Says(Tcp({106, "world", kTcpAck, 5000, 40000, 0, ipv6}));
    CHECK(rig.settled.empty());
    rig.Shadow(Tcp({100, "hel", kTcpAck, 5000, 40000, 0, ipv6}, kOther));
    CHECK(rig.settled.empty());
    rig.Shadow(Tcp({103, "lo wor", kTcpAck, 5000, 40000, 0, ipv6}, kOther));
    CHECK(rig.settled == Numbers({1}));
    rig.Shadow(Tcp({109, "ld and more", kTcpAck, 5000, 40000, 0, ipv6}, kOther));
    CHECK(rig.settled == Numbers({1, 2}));
    rig.Says(Tcp({111, " and", kTcpAck, 5000, 40000, 0, ipv6}));  // the secondary is ahead
    CHECK(rig.settled == Numbers({1, 2, 3}));
    CHECK(rig.events.empty() && rig.stats().matched_packets == 3);
  }
}

void OutOfOrderAndAcrossTheEndOfNumbers() {
  Rig rig;
  rig.Shadow(Tcp({2, "cde"}));
  rig.Shadow(Tcp({0xfffffffe, "XYab"}));  // up to 2
  rig.Shadow(Tcp({0, "ab"}));             // twice
  rig.Says(Tcp({0xfffffffe, "XYabcd"}));
  CHECK(rig.settled == Numbers({1}));
  rig.Says(Tcp({4, "e"}));
  CHECK(rig.settled == Numbers({1, 2}));
}

void ADifferentByte() {
  Rig rig;
  rig.Says(Tcp({100, "the time is 12:30"}));
  rig.Says(Tcp({117, "."}));
  rig.Shadow(Tcp({100, "the time "}));
  rig.Shadow(Tcp({109, "is 12:31."}));
  CHECK(rig.settled.empty() && rig.events.size() == 1);
  const CompareEvent& event = rig.events[0];
  CHECK(event.finding == Finding::kDivergence && event.difference == Difference::kPayload);
  CHECK(event.offset == 16 && event.seq == 116 && event.primary_bytes == 17 && event.shadow_bytes == 9);
  CHECK(event.primary_digest != event.shadow_digest && ntohs(event.flow.guest_port) == 80);
  // Reported once; the flow waits for a commit, and then begins anew.
  rig.Shadow(Tcp({118, "more"}));
  rig.Says(Tcp({118, "more"}));
  CHECK(!rig.followed && rig.After(500) == 0);
  CHECK(rig.settled.empty() && rig.events.size() == 1);
  rig.Commit(2);
  rig.Shadow(Tcp({122, "again"}));
  rig.Says(Tcp({122, "again"}));
  CHECK(rig.settled == Numbers({4}));
}

void Acknowledgements() {
  Rig rig;
  rig.Says(Tcp({100, "", kTcpAck, 6000}));
  CHECK(rig.settled.empty());
  rig.Shadow(Tcp({100, "", kTcpAck, 5999}));
  CHECK(rig.settled.empty());
  rig.Shadow(Tcp({100, "", kTcpAck, 6001}));
  CHECK(rig.settled == Numbers({1}));
  rig.Shadow(Tcp({100, "", kTcpAck, 5990}));  // old ones take nothing back
  rig.Says(Tcp({100, "", kTcpAck, 6001}));
  CHECK(rig.settled == Numbers({1, 2}));
  // Equal bytes are not enough.
  rig.Says(Tcp({100, "x", kTcpAck, 7000}));
  rig.Shadow(Tcp({100, "x", kTcpAck, 6500}));
  CHECK(rig.settled == Numbers({1, 2}));
  rig.Shadow(Tcp({101, "", kTcpAck, 7000}));
  CHECK(rig.settled == Numbers({1, 2, 3}));
}

void Connections() {
  Rig rig;
  constexpr uint8_t syn_ack = kTcpSyn | kTcpAck, fin_ack = kTcpFin | kTcpAck;
  rig.Says(Tcp({1000, "", syn_ack, 5000}));
  rig.Shadow(Tcp({777777, "", syn_ack, 5000}, kOther));  // a number of its own
  CHECK(rig.settled == Numbers({1}));
  rig.Says(Tcp({1001, "bye", fin_ack, 5000}));
  rig.Shadow(Tcp({1001, "bye"}));
  CHECK(rig.settled == Numbers({1}));
  rig.Shadow(Tcp({1004, "", fin_ack}));
  CHECK(rig.settled == Numbers({1, 2}));
  rig.Says(Tcp({1001, "", syn_ack, 5000, 40001, 1460}));
  rig.Shadow(Tcp({1001, "", syn_ack, 5000, 40001, 536}));
  CHECK(rig.settled == Numbers({1, 2}) && rig.events.back().difference == Difference::kOptions);
  // One ends, the other goes on.
  rig.Says(Tcp({10, "ab", fin_ack, 5000, 40002}));
  rig.Shadow(Tcp({10, "abc", kTcpAck, 5000, 40002}));
  CHECK(rig.events.size() == 2 && rig.events.back().difference == Difference::kEnd);
  rig.Says(Tcp({10, "abc", kTcpAck, 5000, 40003}));
  rig.Shadow(Tcp({10, "ab", fin_ack, 5000, 40003}));
  CHECK(rig.events.size() == 3 && rig.events.back().difference == Difference::kEnd);
  rig.Says(Tcp({50, "", kTcpRst, 0, 40004}));
  CHECK(rig.settled == Numbers({1, 2}));
  rig.Shadow(Tcp({50, "", kTcpRst, 0, 40004}));
  CHECK(rig.settled == Numbers({1, 2, 6}));
  // The same ports again.
  rig.Says(Tcp({900000, "", syn_ack, 5000}));
  CHECK(rig.settled == Numbers({1, 2, 6, 7}));  // the old one would do: nothing has followed it
  rig.Shadow(Tcp({5, "", syn_ack, 9000}));
  rig.Says(Tcp({7000, "", syn_ack, 9000}));
  rig.Shadow(Tcp({7001, "new", kTcpAck, 9000}));
  rig.Says(Tcp({7001, "new", kTcpAck, 9000}));
  CHECK(rig.settled == Numbers({1, 2, 6, 7, 8, 9}));
}

void SaidAgain() {
  Rig rig;
  rig.Says(Tcp({100, "abcdef"}));
  rig.Shadow(Tcp({100, "abcdefgh"}));
  rig.Says(Tcp({102, "cdef"}));    // all of it was compared
  rig.Says(Tcp({104, "efgh"}));    // half of it is now
  CHECK(rig.settled == Numbers({1, 2, 3}));
  rig.Says(Tcp({98, "??ab"}));     // this was not
  CHECK(rig.settled == Numbers({1, 2, 3}));
  rig.Says(Tcp({108, "ij"}));      // and order is kept
  rig.Shadow(Tcp({108, "ij"}));
  CHECK(rig.settled == Numbers({1, 2, 3}));
  CHECK(rig.left_out == Numbers({4}) && !rig.followed);  // a commit is waited for at once
  // Behind one that waits for the secondary.
  rig.Says(Tcp({100, "abc", kTcpAck, 5000, 40001}));
  rig.Says(Tcp({98, "??abc", kTcpAck, 5000, 40001}));
  rig.Says(Tcp({103, "def", kTcpAck, 5000, 40001}));
  CHECK(rig.left_out == Numbers({4}));
  rig.Shadow(Tcp({100, "abcdef", kTcpAck, 5000, 40001}));
  CHECK(rig.settled == Numbers({1, 2, 3, 6}) && rig.left_out == Numbers({4, 7, 8}));
  CHECK(rig.After(500) == 0 && rig.events.empty());
}

// The two have chosen different numbers, and nobody translates between them.
void AGuestThatCalls() {
  Rig rig;
  rig.Shadow(Tcp({777777, "", kTcpSyn, 0}));
  rig.Says(Tcp({1000, "", kTcpSyn, 0}));
  CHECK(rig.settled.empty() && rig.left_out == Numbers({1}));
  rig.Says(Tcp({1001, "", kTcpAck, 6000}));
  CHECK(!rig.followed && rig.settled.empty());
  rig.Commit(2);
  rig.Says(Tcp({1001, "", kTcpAck, 6000}));
  rig.Shadow(Tcp({1001, "", kTcpAck, 6000}));
  CHECK(rig.settled == Numbers({3}));
}

void WhatLeftInAnotherWay() {
  Rig rig;
  rig.Says(Tcp({100, "abc"}));
  rig.Shadow(Tcp({100, "abcdefghi"}));
  rig.Says(Tcp({106, "ghi"}));  // "def" was pre-released
  CHECK(rig.settled == Numbers({1, 2}));
  Record* third = rig.Says(Tcp({109, "jkl"}));
  rig.Says(Tcp({112, "mno"}));
  rig.Forget(third);  // its inputs have been logged
  rig.Shadow(Tcp({109, "jklmno"}));
  CHECK(rig.settled == Numbers({1, 2, 4}));
}

void Datagrams() {
  Rig rig;
  rig.Says(Udp("one"));
  rig.Says(Udp("two"));
  rig.Shadow(Udp("one", kOther));
  CHECK(rig.settled == Numbers({1}));
  rig.Shadow(Udp("zwei", kOther));
  CHECK(rig.events.empty());  // the right one may follow
  rig.After(50);
  CHECK(rig.events.size() == 1 && rig.events[0].finding == Finding::kDivergence && rig.events[0].shadow_bytes == 4);
  // Whole, and in pieces.
  rig.Commit(2);
  rig.Says(Udp("aaaabbbbcc", {}, 40001), 4);
  rig.Shadow(Udp("aaaa", kOther, 40001));
  rig.Shadow(Udp("bbbb", kOther, 40001));
  CHECK(rig.settled == Numbers({1}));
  rig.Shadow(Udp("cc", kOther, 40001));
  CHECK(rig.settled == Numbers({1, 3}));
  rig.Shadow(Udp("ddddeeeeff", kOther, 40001), 4);
  for (const char* part : {"dddd", "eeee", "ff"}) rig.Says(Udp(part, {}, 40001));
  CHECK(rig.settled == Numbers({1, 3, 4, 5, 6}));
  rig.Says(Udp("", {}, 40001));
  rig.Shadow(Udp("", {}, 40001));
  CHECK(rig.settled.back() == 7);
}

void FragmentsAndOthers() {
  Rig rig;
  Frame body(64, 'f'), rest(64, 'g');
  auto part = [](const Frame& bytes, uint16_t identification, uint16_t fragment) {
    return Ipv4(IPPROTO_UDP, bytes, {identification, 64, 0, 0}, fragment);
  };
  rig.Says(part(body, 1, 0x2000));
  rig.Says(part(rest, 1, 8));
  rig.Shadow(part(body, 50, 0x2000));
  rig.Shadow(part(rest, 51, 8));  // of another datagram
  CHECK(rig.settled == Numbers({1}));
  rig.Shadow(part(rest, 50, 9));  // in another place
  CHECK(rig.settled == Numbers({1}));
  rig.Shadow(part(rest, 50, 8));
  CHECK(rig.settled == Numbers({1, 2}));
  Frame echo{0, 0, 1, 2, 3, 4};
  rig.Says(Ipv4(IPPROTO_ICMP, echo, {}));
  rig.Shadow(Ipv4(IPPROTO_ICMP, echo, kOther));
  rig.Says(Ethernet(0x1234, body));
  rig.Shadow(Ethernet(0x1234, body));
  CHECK(rig.settled == Numbers({1, 2, 3, 4}));
  echo[5] = 9;
  rig.Says(Ipv4(IPPROTO_ICMP, echo, {}));
  CHECK(rig.settled.size() == 4);
  // What makes no sense waits for a commit.
  Frame odd = Tcp({1, "x"});
  odd[14 + 20 + 12] = 0x10;
  rig.Says(odd);
  CHECK(!rig.followed && rig.stats().untracked == 1);
  rig.Shadow(odd);
  CHECK(rig.stats().shadow_malformed == 1);
}

void Epochs() {
  Rig rig;
  // Said before the checkpoint that counts: no evidence.
  rig.Shadow(Tcp({100, "abc"}));
  rig.Commit(2);
  rig.Says(Tcp({100, "abc"}));
  CHECK(rig.settled.empty());
  rig.Shadow(Tcp({100, "abc"}), 0, 1);
  CHECK(rig.settled.empty());
  rig.Shadow(Tcp({100, "abc"}), 0, 2);
  CHECK(rig.settled == Numbers({1}));
  // Said in the next epoch, before the commit is known here.
  rig.Shadow(Tcp({103, "def"}), 0, 3);
  rig.Says(Tcp({103, "def"}));  // before the STOP
  CHECK(rig.settled == Numbers({1}));
  rig.now_ns += kMs;
  rig.Shadow(Tcp({106, "ghi"}), 0, 3);
  rig.Commit(3);
  CHECK(rig.settled == Numbers({1}));
  rig.Says(Tcp({106, "ghi"}));
  CHECK(rig.settled == Numbers({1, 3}));
  // Once a checkpoint was asked for, what is said waits for its commit; what was said before does not.
  rig.Says(Tcp({109, "j"}));
  rig.Suspend();
  rig.now_ns += kMs;
  rig.Shadow(Tcp({109, "jk"}));
  rig.Says(Tcp({110, "k"}));
  CHECK(!rig.followed && rig.settled == Numbers({1, 3, 4}));
  CHECK(rig.After(1000) == 0 && rig.events.empty());
  CHECK(rig.stats().shadow_stale == 1);
}

void HeldAcrossACommit() {
  Rig rig;
  rig.Says(Tcp({100, "abc"}));
  rig.now_ns += kMs;
  uint64_t stop_ns = rig.now_ns;
  rig.now_ns += kMs;
  rig.Says(Tcp({103, "def"}));
  rig.Shadow(Tcp({100, "abcdef"}), 0, 2);
  uint64_t now_ns = rig.now_ns;
  rig.now_ns = stop_ns;
  rig.Commit(2);
  rig.now_ns = now_ns;
  CHECK(rig.settled == Numbers({2}));
}

void Lateness() {
  Rig rig;
  rig.Says(Tcp({100, "abc"}));
  uint64_t due_ns = rig.After(0);
  CHECK(due_ns == rig.now_ns + 20 * kMs);
  rig.After(10);
  CHECK(rig.events.empty());
  rig.After(10);
  CHECK(rig.events.size() == 1 && rig.events[0].finding == Finding::kLate && rig.events[0].age_ns == 20 * kMs);
  rig.Shadow(Tcp({100, "abc"}));  // late, but it counts
  CHECK(rig.settled == Numbers({1}));
  // The limit follows what is usual: soon 2 ms, then longer.
  rig.Commit(2);
  uint32_t seq = 103;
  for (int i = 0; i < 100; i++) {
    rig.Says(Tcp({seq, "x"}));
    rig.now_ns += kMs / 2;
    rig.Shadow(Tcp({seq++, "x"}));
  }
  rig.Says(Tcp({seq, "x"}));
  CHECK(rig.After(0) <= rig.now_ns + 2 * kMs);
  rig.Shadow(Tcp({seq++, "x"}));
  for (int i = 0; i < 100; i++) {
    rig.Says(Tcp({seq, "x"}));
    rig.now_ns += 30 * kMs;
    rig.Shadow(Tcp({seq++, "x"}));
  }
  rig.Says(Tcp({seq, "x"}));
  uint64_t wait_ns = rig.After(0) - rig.now_ns;
  CHECK(wait_ns > 30 * kMs && wait_ns <= 100 * kMs);
  double median_ms = rig.stats().lags.QuantileMs(0.5), p99_ms = rig.stats().lags.QuantileMs(0.99);
  CHECK(median_ms > 0.4 && median_ms < 40 && p99_ms > 30 && p99_ms < 40);
}

void Audit() {
  Rig rig;
  rig.Audits(Tcp({500, "right"}));
  rig.Shadow(Tcp({400, std::string(100, 'x')}));
  rig.Shadow(Tcp({500, "right and"}));
  CHECK(rig.stats().audited == 1);
  rig.Shadow(Tcp({700, "was here first"}));
  rig.Audits(Tcp({700, "was here last"}));
  CHECK(rig.stats().audit_mismatches == 1);
  CHECK(rig.events.size() == 1 && rig.events[0].finding == Finding::kAuditMismatch && rig.events[0].offset == 9);
  rig.Audits(Tcp({800, "?"}));
  CHECK(rig.stats().unaudited == 1);  // not in this flow until the next commit
  rig.Audits(Tcp({800, "?", kTcpAck, 5000, 40001}));
  CHECK(rig.stats().unaudited == 1 && rig.After(100) == 0);
  CHECK(rig.stats().unaudited == 2 && rig.stats().late == 0 && rig.events.size() == 1);
  rig.Audits(Udp("yes"));
  rig.Shadow(Udp("no"));
  rig.After(100);
  CHECK(rig.stats().audit_mismatches == 2);
  // Before what is held in the same flow, which waits for it.
  rig.Audits(Tcp({10, "ab", kTcpAck, 5000, 40002}));
  rig.Says(Tcp({12, "cd", kTcpAck, 5000, 40002}));
  rig.Shadow(Tcp({10, "abcd", kTcpAck, 5000, 40002}));
  CHECK(rig.stats().audited == 2 && rig.settled == Numbers({1}));
  // A commit ends the wait.
  rig.Audits(Tcp({20, "ab", kTcpAck, 5000, 40003}));
  rig.Commit(2);
  CHECK(rig.stats().unaudited == 3 && rig.settled == Numbers({1}));
  for (uint16_t i = 0; i < 2000; i++) rig.Audits(Tcp({1, std::string(1000, 'a'), kTcpAck, 5000, i}));
  CHECK(rig.stats().unaudited > 1000);  // no room
  for (uint16_t i = 0; i < 2000; i++) rig.Shadow(Tcp({1, std::string(1000, 'a'), kTcpAck, 5000, i}));
  CHECK(rig.stats().audited > 2 && rig.events.size() == 2);
}

void AuditHeld() {
  Rig rig;
  // In its place: what is held behind it uses up what the secondary has said before.
  Record* first = rig.Says(Udp("one"));
  Record* second = rig.Says(Udp("two"));
  rig.Says(Udp("three"));
  rig.Leaves(second);
  rig.Leaves(first);
  for (const char* said : {"one", "two", "three", "four"}) rig.Shadow(Udp(said));
  CHECK(rig.stats().audited == 2 && rig.settled == Numbers({3}));
  rig.After(100);
  CHECK(rig.events.empty() && rig.stats().unaudited == 0);
  // It waits for no acknowledgement any more, and neither does what is behind it.
  Record* all_but_ack = rig.Says(Tcp({10, "ab", kTcpAck, 6000}));
  rig.Says(Tcp({12, "cd", kTcpAck, 5000}));
  rig.Shadow(Tcp({10, "abcd", kTcpAck, 5000}));
  CHECK(rig.stats().audited == 2 && rig.settled == Numbers({3}));
  rig.Leaves(all_but_ack);
  CHECK(rig.stats().audited == 3 && rig.settled == Numbers({3, 5}));
  Record* wrong = rig.Says(Tcp({14, "wrong"}));
  rig.Leaves(wrong);
  rig.Shadow(Tcp({14, "wrung"}));
  CHECK(rig.stats().audit_mismatches == 1 && rig.stats().divergences == 0);
  // Not compared: not in this flow, nor in one that has just diverged, or not before a commit.
  rig.Leaves(rig.Says(Tcp({19, "more"})));
  CHECK(rig.stats().unaudited == 1);
  rig.Says(Tcp({10, "ab", kTcpAck, 5000, 40001}));
  Record* behind = rig.Says(Tcp({12, "cd", kTcpAck, 5000, 40001}));
  rig.Shadow(Tcp({10, "ax", kTcpAck | kTcpFin, 5000, 40001}));
  CHECK(rig.stats().divergences == 1);
  rig.Leaves(behind);
  CHECK(rig.stats().unaudited == 2);
  rig.Suspend();
  rig.now_ns += kMs;
  rig.Leaves(rig.Says(Udp("late")));
  CHECK(rig.stats().unaudited == 3 && rig.stats().audited == 3 && rig.events.size() == 2);
}

// Most datagrams that left early are not audited, and what the secondary said in their place stays.
void AuditAmongOthers() {
  Rig rig;
  rig.Shadow(Udp("to another question"));
  rig.now_ns += kMs;
  rig.Audits(Udp("yes"));
  CHECK(rig.After(100) == 0 && rig.events.empty() && rig.stats().unaudited == 1);
  rig.Shadow(Udp("to a third"));
  rig.now_ns += kMs;
  rig.Audits(Udp("yes"));
  rig.Shadow(Udp("yes"));
  CHECK(rig.stats().audited == 1);
  // What is held is late, if what was said before was so long ago.
  rig.Shadow(Udp("to a fourth"));
  rig.now_ns += 200 * kMs;
  rig.Says(Udp("held"));
  rig.After(100);
  CHECK(rig.events.size() == 1 && rig.events[0].finding == Finding::kLate);
}

void Bounds() {
  // One flow may not keep more than it may; the oldest goes.
  Rig rig({2 * kMs, 100 * kMs, 20 * kMs, 10'000, 1024});
  for (uint32_t i = 0; i < 100; i++) rig.Shadow(Tcp({i * 1000, std::string(1000, 'a')}));
  CHECK(rig.stats().shadow_dropped == 91);
  rig.Says(Tcp({99'000, std::string(1000, 'a')}));
  CHECK(rig.settled == Numbers({1}));
  // All together not more than the ring.
  Rig small(kLimits, 1000, 256 * 1024);
  for (uint16_t i = 0; i < 900; i++) small.Shadow(Tcp({1, std::string(1000, 'a'), kTcpAck, 5000, i}));
  CHECK(small.stats().shadow_dropped > 600);
  small.Says(Tcp({1, std::string(1000, 'a'), kTcpAck, 5000, 899}));
  CHECK(small.settled == Numbers({1}));
  // A full table: flows in which nothing waits make room, others do not.
  Rig full(kLimits, 8);
  for (uint16_t i = 0; i < 8; i++) full.Says(Tcp({1, "a", kTcpAck, 5000, i}));
  full.Says(Tcp({1, "a", kTcpAck, 5000, 100}));
  CHECK(!full.followed && full.stats().untracked == 1);
  full.Shadow(Tcp({1, "a", kTcpAck, 5000, 3}));
  CHECK(full.settled == Numbers({4}));
  full.Says(Tcp({2, "b", kTcpAck, 5000, 100}));
  CHECK(!full.followed);  // it must not overtake the first
  full.Commit(2);
  full.Says(Tcp({3, "c", kTcpAck, 5000, 100}));
  full.Shadow(Tcp({3, "c", kTcpAck, 5000, 100}));
  CHECK(full.settled == Numbers({4, 11}));
}

// Two machines that say the same in packets of their own, with loss on the way:
// all that is settled was said by both, in order, and without loss all is settled.
void Random() {
  std::mt19937 random(5);
  auto below = [&](uint32_t limit) { return static_cast<uint32_t>(random() % limit); };
  for (int round = 0; round < 300; round++) {
    Rig rig;
    bool lossy = round % 2, wrong = round % 5 == 0;
    uint32_t start = random();
    std::string stream;
    for (int i = 0; i < 5000; i++) stream.push_back(static_cast<char>(random()));
    std::string other = stream;
    uint32_t wrong_at = below(5000);
    if (wrong) other[wrong_at] = static_cast<char>(other[wrong_at] ^ 1);
    uint32_t ours = 0, theirs = 0;
    std::vector<uint32_t> ends{0};
    while (ours < 5000 || theirs < 5000) {
      if (theirs >= 5000 || (ours < 5000 && below(2))) {
        uint32_t count = std::min(1 + below(200), 5000 - ours);
        rig.Says(Tcp({start + ours, stream.substr(ours, count)}));
        ends.push_back(ours += count);
      } else {
        uint32_t count = std::min(1 + below(300), 5000 - theirs);
        uint32_t repeat = std::min(theirs, below(50));
        if (!lossy || below(20)) rig.Shadow(Tcp({start + theirs - repeat, other.substr(theirs - repeat, count + repeat)}, kOther));
        theirs += count;
      }
    }
    for (size_t i = 0; i < rig.settled.size(); i++) CHECK(rig.settled[i] == static_cast<int>(i) + 1);
    uint32_t settled_bytes = ends[rig.settled.size()];
    CHECK(!wrong || settled_bytes <= wrong_at);
    CHECK(lossy || wrong || settled_bytes == 5000);
    CHECK(lossy || !wrong || (rig.events.size() == 1 && rig.events[0].seq == start + wrong_at));
  }
}

}  // namespace

int main() {
  SameInOtherPackets();
  OutOfOrderAndAcrossTheEndOfNumbers();
  ADifferentByte();
  Acknowledgements();
  Connections();
  SaidAgain();
  AGuestThatCalls();
  WhatLeftInAnotherWay();
  Datagrams();
  FragmentsAndOthers();
  Epochs();
  HeldAcrossACommit();
  Lateness();
  Audit();
  AuditHeld();
  AuditAmongOthers();
  Bounds();
  Random();
  std::puts("ok");
}
