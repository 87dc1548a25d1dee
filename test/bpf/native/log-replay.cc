// The replay against simulated guests: slow ones, deaf ones, ones that lose
// packets, on a clock of our own.
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "log_replay.h"

using namespace taphold;

namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr ReplayLimits kLimits{1000 * kMs, 20 * kMs, 50 * kMs, 25};
constexpr uint64_t kMostNs = 10 * kLimits.total_ns;  // however well it gets on
constexpr uint32_t kIsn = 1000;

// A frame of one TCP connection, told by its port.
struct Input {
  uint16_t port;
  uint8_t flags;
  uint32_t seq;
  uint32_t payload_bytes;
  bool write;
  bool live = false;
  uint32_t ack = 0;
  uint16_t service = 80;
  uint8_t protocol = 6;
  bool fragment = false;
};

class Log {
 public:
  Record* Add(uint64_t iseq, const Input& input) {
    size_t bytes = 54 + input.payload_bytes;
    memory_.push_back(std::make_unique<uint8_t[]>(sizeof(Record) + bytes));
    auto record = reinterpret_cast<Record*>(memory_.back().get());
    *record = Record{};
    record->iseq = iseq;
    record->frame_bytes = static_cast<uint32_t>(bytes);
    record->flags = static_cast<uint16_t>((input.write ? LOG_WRITE : 0) | (input.live ? LOG_LIVE : 0));
    uint8_t* frame = record->frame();
    std::memset(frame, 0, bytes);
    frame[12] = 8;
    frame[14] = 0x45;
    frame[16] = static_cast<uint8_t>((bytes - 14) >> 8);
    frame[17] = static_cast<uint8_t>(bytes - 14);
    frame[20] = input.fragment ? 0x20 : 0;
    frame[23] = input.port ? input.protocol : 17;  // port 0: UDP
    frame[34] = static_cast<uint8_t>(input.port >> 8);
    frame[35] = static_cast<uint8_t>(input.port);
    frame[36] = static_cast<uint8_t>(input.service >> 8);
    frame[37] = static_cast<uint8_t>(input.service);
    for (int i = 0; i < 4; i++) frame[38 + i] = static_cast<uint8_t>(input.seq >> (24 - 8 * i));
    for (int i = 0; i < 4; i++) frame[42 + i] = static_cast<uint8_t>(input.ack >> (24 - 8 * i));
    frame[46] = 0x50;
    frame[47] = input.flags;
    return record;
  }

 private:
  std::vector<std::unique_ptr<uint8_t[]>> memory_;
};

struct Guest : ReplayTarget {
  struct Flow {
    shadow_flow seen{};  // what the BPF programs know
    uint32_t rcv_next = kIsn;  // of the guest itself
    bool open = false;
    uint64_t newest_iseq = 0;
    uint32_t seen_ack = 0;  // how much it knows the client to have
  };
  struct Later {
    uint64_t at_ns;
    uint16_t port;
    int what;  // 0: SYN-ACK, 1: acknowledgement, 2: reply
    uint32_t ack;
  };
  struct Executed {
    uint64_t iseq, at_ns;
    bool write;
  };

  explicit Guest(unsigned seed) : random(seed) {}

  void Inject(Record* record) override {
    injected++;
    Frame frame = ParseFrame(record);
    bool live = record->flags & LOG_LIVE;
    if (!frame.tcp) {
      executed.push_back({record->iseq, now_ns, false});
      return;
    }
    uint16_t port = static_cast<uint16_t>(record->frame()[34] << 8 | record->frame()[35]);
    Flow& flow = flows[port];
    if (deaf.count(port)) return;
    if (!followed) return;
    present[port] = true;
    if (frame.opens()) {
      if (flow.seen.state == SHADOW_SILENT) flow.seen.state = SHADOW_SYN;
      flow.open = true;
      flow.rcv_next = std::max(flow.rcv_next, frame.end());
      if (!Lost()) Do(port, 0, frame.end());
      return;
    }
    // Nothing may come between SYN and SYN-ACK, but when all time is over.
    CHECK(flow.seen.state != SHADOW_SYN || now_ns >= kLimits.total_ns || abandoned_ok);
    if (flow.seen.state == SHADOW_SYN_ACK) flow.seen.state = SHADOW_KNOWN;
    if (Lost()) return;
    bool first = !flow.seen.tried;
    if (frame.end() != frame.seq) flow.seen.tried = 1;
    if (flow.seen.state == SHADOW_SILENT && !(active && first)) {
      Do(port, 1, flow.rcv_next);  // a probe
      return;
    }
    flow.seen_ack = std::max(flow.seen_ack, std::min(frame.ack, flow.seen.snd_max));
    if (frame.end() == frame.seq) return;
    if (frame.seq == flow.rcv_next) {
      flow.rcv_next = frame.end();
      if (frame.payload_bytes) {
        if (!live) CHECK(record->iseq > flow.newest_iseq);
        flow.newest_iseq = record->iseq;
        executed.push_back({record->iseq, now_ns, (record->flags & LOG_WRITE) != 0});
        if (answers) Do(port, 2, 0);
      }
    }
    Do(port, 1, flow.rcv_next);
  }

  bool Look(const shadow_key& key, shadow_flow* flow) override {
    uint16_t port = static_cast<uint16_t>(key.client_port << 8 | key.client_port >> 8);
    if (!present[port]) return false;
    *flow = flows[port].seen;
    return true;
  }

  bool Lost() { return loss && random() % 100 < loss; }

  void Do(uint16_t port, int what, uint32_t ack) { later.push_back({now_ns + delay_ns + random() % (delay_ns + 1), port, what, ack}); }

  void Tick() {
    for (size_t i = 0; i < later.size();) {
      Later done = later[i];
      if (done.at_ns > now_ns) {
        i++;
        continue;
      }
      later.erase(later.begin() + static_cast<long>(i));
      shadow_flow& seen = flows[done.port].seen;
      if (done.what == 2) {
        seen.replies++;
        seen.snd_max += 100;
        replied_ns[done.port] = now_ns;
        continue;
      }
      if (done.what == 0 && seen.state == SHADOW_SYN) seen.state = SHADOW_SYN_ACK;
      if (done.what == 1 && seen.state == SHADOW_SILENT) seen.state = SHADOW_KNOWN;
      if (!seen.acked || static_cast<int32_t>(done.ack - seen.rcv_ack) > 0) seen.rcv_ack = done.ack;
      seen.acked = 1;
    }
  }

  std::mt19937 random;
  uint64_t now_ns = 0, delay_ns = 0;
  unsigned loss = 0;
  bool answers = true, followed = true, abandoned_ok = false;
  bool active = false;  // what comes first is no probe
  uint64_t injected = 0;
  std::map<uint16_t, Flow> flows;
  std::map<uint16_t, bool> present, deaf;
  std::map<uint16_t, uint64_t> replied_ns;
  std::vector<Later> later;
  std::vector<Executed> executed;
};

// Runs the replay to its end; returns when that was.
uint64_t Run(Replayer& replayer, Guest& guest) {
  for (;;) {
    guest.Tick();
    if (replayer.Step(guest.now_ns)) return guest.now_ns;
    CHECK(guest.now_ns <= kMostNs);
    guest.now_ns += kMs;
  }
}

// Runs it for so long, whether it ends or not.
void RunFor(uint64_t ns, Replayer& replayer, Guest& guest) {
  for (uint64_t end = guest.now_ns + ns; guest.now_ns < end; guest.now_ns += kMs) {
    guest.Tick();
    replayer.Step(guest.now_ns);
  }
}

// Clients with connections new and old, that ask for this and that.
void Conversations(unsigned seed) {
  std::mt19937 random(seed);
  Guest guest(seed);
  Log log;
  guest.delay_ns = seed % 4 * 2 * kMs;
  guest.loss = seed % 3 == 0 ? 3 : 0;
  std::vector<Record*> records;
  std::map<uint16_t, uint32_t> seq;
  std::map<uint64_t, bool> requests;  // by number: writes
  uint64_t iseq = 100;
  unsigned clients = 1 + random() % 40;
  bool with_writes = seed % 5 != 0;
  for (int i = 0; i < 400; i++) {
    auto port = static_cast<uint16_t>(1 + random() % clients);
    if (!seq.count(port)) {
      seq[port] = kIsn;
      if (port % 3) {
        records.push_back(log.Add(iseq++, {port, kTcpSyn, kIsn, 0, false}));
        records.push_back(log.Add(iseq++, {port, kTcpAck, ++seq[port], 0, false}));
      }
    }
    uint32_t bytes = 1 + random() % 400;
    bool write = with_writes && random() % 50 == 0;
    requests[iseq] = write;
    records.push_back(log.Add(iseq++, {port, kTcpAck, seq[port], bytes, write}));
    seq[port] += bytes;
  }
  std::shuffle(records.begin(), records.end(), random);
  Replayer replayer(&guest, kLimits);
  replayer.Begin(records, 0, false, 0);
  uint64_t end_ns = Run(replayer, guest);
  CHECK(replayer.stats().abandoned_frames == 0 && replayer.stats().flushed_frames == 0);
  CHECK(end_ns < kLimits.total_ns);

  // Everything went in once, and the writes not before the reads ahead of the first.
  CHECK(guest.executed.size() == requests.size());
  uint64_t first_write = UINT64_MAX, write_ns = UINT64_MAX;
  for (const auto& [number, write] : requests) if (write) first_write = std::min(first_write, number);
  for (const auto& done : guest.executed) {
    CHECK(requests.count(done.iseq) && requests[done.iseq] == done.write);
    if (done.write) write_ns = std::min(write_ns, done.at_ns);
  }
  // A guest that keeps losing requests is not waited for for ever.
  for (const auto& done : guest.executed) CHECK(done.iseq >= first_write || done.at_ns <= write_ns || guest.loss);
  if (!guest.loss) CHECK(guest.injected <= records.size() + clients);
}

void WritesWaitForReplies() {
  for (uint64_t delay_ms : {0, 5, 30, 200}) {
    Guest guest(1);
    Log log;
    guest.delay_ns = delay_ms * kMs;
    std::vector<Record*> records = {
        log.Add(1, {3, kTcpAck, kIsn, 10, false}),
        log.Add(2, {6, kTcpAck, kIsn, 10, true}),
        log.Add(3, {9, kTcpAck, kIsn, 10, false}),
    };
    Replayer replayer(&guest, kLimits);
    replayer.Begin(records, 0, false, 0);
    Run(replayer, guest);
    uint64_t read_ns = 0, write_ns = 0, late_read_ns = 0;
    for (const auto& done : guest.executed) (done.iseq == 1 ? read_ns : done.iseq == 2 ? write_ns : late_read_ns) = done.at_ns;
    CHECK(write_ns >= std::min(guest.replied_ns[3], read_ns + 5 * kLimits.barrier_ns));
    CHECK(write_ns <= read_ns + 5 * kLimits.barrier_ns + 2 * delay_ms * kMs + 2 * kMs);
    CHECK(late_read_ns <= read_ns + delay_ms * kMs + 2 * kMs);  // it does not wait
  }
}

// A log that takes longer to replay than any single reply: as long as it gets on,
// it is waited for.
void WritesWaitForALongLog() {
  Guest guest(1);
  Log log;
  guest.delay_ns = 30 * kMs;
  std::vector<Record*> records;
  constexpr uint32_t kReads = 1000;
  for (uint32_t i = 0; i < kReads; i++) records.push_back(log.Add(1 + i, {3, kTcpAck, kIsn + 10 * i, 10, false}));
  records.push_back(log.Add(kReads + 1, {6, kTcpAck, kIsn, 10, true}));
  Replayer replayer(&guest, kLimits);
  replayer.Begin(records, 0, false, 0);
  CHECK(Run(replayer, guest) > kLimits.total_ns);
  CHECK(guest.executed.size() == kReads + 1 && replayer.stats().flushed_frames == 0);
  CHECK(guest.executed.back().write && guest.executed.back().at_ns >= guest.replied_ns[3]);
}

// The log keeps a little of what a commit covers. A write among that is no reason
// to let the first write after it go before the reads between the two.
void WritesOfTheCheckpointDoNotCount() {
  Guest guest(1);
  Log log;
  guest.delay_ns = 30 * kMs;
  std::vector<Record*> records = {
      log.Add(1, {6, kTcpAck, kIsn, 10, true}),
      log.Add(2, {3, kTcpAck, kIsn, 10, false}),
      log.Add(3, {9, kTcpAck, kIsn, 10, true}),
  };
  Replayer replayer(&guest, kLimits);
  replayer.Begin(records, 1, false, 0);
  Run(replayer, guest);
  uint64_t covered_ns = 0, write_ns = 0;
  for (const auto& done : guest.executed) {
    if (done.iseq == 1) covered_ns = done.at_ns;
    if (done.iseq == 3) write_ns = done.at_ns;
  }
  CHECK(guest.replied_ns[3] && write_ns >= guest.replied_ns[3]);
  CHECK(covered_ns && covered_ns < write_ns);
}

// When the first of the records with these numbers was carried out.
uint64_t ExecutedAt(const Guest& guest, uint64_t iseq) {
  for (const auto& done : guest.executed) if (done.iseq == iseq) return done.at_ns;
  CHECK(false);
  return 0;
}

// A write to one service does not make replies of another unseen; nor does what
// is for no service. What may be for any service does.
void ServicesAreApart() {
  for (bool ping : {false, true}) {
    Guest guest(1);
    Log log;
    guest.delay_ns = 30 * kMs;
    Input first{6, kTcpAck, kIsn, 10, true};
    first.service = 22;
    if (ping) first.protocol = 1;
    std::vector<Record*> records = {
        log.Add(1, first), log.Add(2, {3, kTcpAck, kIsn, 10, false}), log.Add(3, {9, kTcpAck, kIsn, 10, true}),
    };
    Replayer replayer(&guest, kLimits);
    replayer.Begin(records, 0, false, 0);
    replayer.Step(0);
    Input live{12, kTcpAck, kIsn, 10, false, true};
    CHECK(replayer.Append(log.Add(0, live)));
    live.service = 22;
    CHECK(!replayer.Append(log.Add(0, live)));  // nobody is owed a reply there
    live.fragment = true;
    CHECK(replayer.Append(log.Add(0, live)));  // but here perhaps
    Run(replayer, guest);
    CHECK(guest.replied_ns[3] && ExecutedAt(guest, 3) >= guest.replied_ns[3]);
    if (!ping) CHECK(ExecutedAt(guest, 1) < guest.replied_ns[3]);
  }

  Guest guest(1);
  Log log;
  guest.delay_ns = 30 * kMs;
  Input opaque{6, 0, 0, 10, true};
  opaque.fragment = true;
  Input other{4, kTcpAck, kIsn, 10, false};
  other.service = 22;
  Replayer replayer(&guest, kLimits);
  replayer.Begin({log.Add(1, {3, kTcpAck, kIsn, 10, false}), log.Add(2, other), log.Add(3, opaque)}, 0, false, 0);
  Run(replayer, guest);
  CHECK(ExecutedAt(guest, 3) >= std::max(guest.replied_ns[3], guest.replied_ns[4]) && guest.replied_ns[4]);
}

// What the client has acknowledged to the primary must come again before the
// first write goes in, however long the guest takes.
void WritesWaitForWhatClientsHave() {
  for (uint64_t delay_ms : {10, 45, 90}) {
    Guest guest(1);
    Log log;
    guest.delay_ns = delay_ms * kMs;
    std::vector<Record*> records = {
        log.Add(1, {3, kTcpAck, kIsn, 10, false}),
        log.Add(2, {3, kTcpAck, kIsn + 10, 0, false, false, 100}),
        log.Add(3, {6, kTcpAck, kIsn, 10, true}),
    };
    Replayer replayer(&guest, kLimits);
    replayer.Begin(records, 0, false, 0);
    Run(replayer, guest);
    uint64_t write_ns = 0;
    for (const auto& done : guest.executed) if (done.write) write_ns = done.at_ns;
    CHECK(guest.replied_ns[3] && write_ns >= guest.replied_ns[3]);
  }
}

// A client that goes on after the takeover may write: not before others have the
// replies again that they were given, wherever in the log their requests are.
void LiveRequestsWaitForReplies() {
  for (uint64_t delay_ms : {5, 30}) {
    Guest guest(1);
    Log log;
    guest.delay_ns = delay_ms * kMs;
    guest.flows[8].seen.state = guest.flows[9].seen.state = SHADOW_KNOWN;
    guest.present[8] = guest.present[9] = true;
    Replayer replayer(&guest, kLimits);
    replayer.Begin({log.Add(1, {9, kTcpAck, kIsn, 10, false}), log.Add(2, {3, kTcpAck, kIsn, 10, false})}, 0, false, 0);
    replayer.Step(0);
    CHECK(replayer.Append(log.Add(0, {8, kTcpAck, kIsn, 10, false, true})));       // of a connection that is not in the log
    CHECK(replayer.Append(log.Add(0, {9, kTcpAck, kIsn + 10, 10, false, true})));  // of one that is
    CHECK(!replayer.Append(log.Add(0, {77, kTcpAck, kIsn, 0, false, true})));      // which asks for nothing
    Run(replayer, guest);
    uint64_t live_ns = UINT64_MAX;
    for (const auto& done : guest.executed) if (done.write) live_ns = std::min(live_ns, done.at_ns);
    CHECK(guest.executed.size() == 4 && guest.replied_ns[3] && live_ns >= guest.replied_ns[3]);
    CHECK(!replayer.Append(log.Add(0, {8, kTcpAck, kIsn + 10, 10, false, true})));  // nothing to wait for any more
  }
}

// The host stands still as the replay begins, and with it the guest: what it has
// still to say is waited for all the same.
void StandingStillIsNoPatience() {
  Guest guest(1);
  Log log;
  guest.delay_ns = 5 * kMs;
  Replayer replayer(&guest, kLimits);
  replayer.Begin({log.Add(1, {3, kTcpAck, kIsn, 10, false}), log.Add(2, {6, kTcpAck, kIsn, 10, true})}, 0, false, 0);
  replayer.Step(0);
  constexpr uint64_t kStillNs = 900 * kMs;
  for (;; guest.now_ns += kMs) {
    guest.Tick();
    if (replayer.Step(guest.now_ns + kStillNs)) break;
    CHECK(guest.now_ns < kLimits.total_ns);
  }
  uint64_t write_ns = 0;
  for (const auto& done : guest.executed) if (done.write) write_ns = done.at_ns;
  CHECK(guest.replied_ns[3] && write_ns >= guest.replied_ns[3]);
}

void DeafGuests() {
  // One connection of a guest that does not answer holds up nobody else.
  Guest guest(2);
  Log log;
  guest.deaf[6] = true;
  std::vector<Record*> records = {
      log.Add(1, {6, kTcpAck, kIsn, 10, false}), log.Add(2, {6, kTcpAck, kIsn + 10, 10, false}),
      log.Add(3, {9, kTcpAck, kIsn, 10, false}), log.Add(4, {5, kTcpSyn, kIsn, 0, false}),
  };
  guest.deaf[5] = true;
  Replayer replayer(&guest, kLimits);
  replayer.Begin(records, 0, false, 0);
  guest.Tick();
  replayer.Step(0);
  Record* live = log.Add(0, {5, kTcpAck, kIsn + 1, 7, false, true});
  CHECK(replayer.Append(live));
  CHECK(!replayer.Append(log.Add(0, {77, kTcpSyn, 1, 0, false, true})));  // nobody waits for that one
  uint64_t end_ns = Run(replayer, guest);
  CHECK(guest.executed.size() == 1 && guest.executed[0].iseq == 3);
  CHECK(end_ns < kLimits.total_ns);
  CHECK(guest.injected < 100);

  // Nothing is known of any flow, as their table is full: all goes in, in order.
  Guest blind(3);
  blind.followed = false;
  Replayer unpaced(&blind, kLimits);
  unpaced.Begin({log.Add(1, {1, kTcpSyn, kIsn, 0, false}), log.Add(2, {1, kTcpAck, kIsn + 1, 0, false}),
                 log.Add(3, {1, kTcpAck, kIsn + 1, 10, true})}, 0, false, 0);
  CHECK(Run(unpaced, blind) < 100 * kMs);
  CHECK(blind.injected == 3 && unpaced.stats().abandoned_frames == 0);

  // A guest that is slower than all patience: the rest goes in at the end.
  Guest slow(4);
  slow.delay_ns = 150 * kMs;
  slow.abandoned_ok = true;
  std::vector<Record*> many;
  for (uint32_t i = 0; i < 3000; i++) many.push_back(log.Add(i + 1, {3, kTcpAck, kIsn + i, 1, false}));
  Replayer late(&slow, kLimits);
  late.Begin(many, 0, false, 0);
  CHECK(Run(late, slow) == kMostNs);
  CHECK(late.stats().flushed_frames > 0);
  CHECK(slow.injected >= 3000);
}

void WhatACommitCovers() {
  Guest guest(5);
  Log log;
  std::vector<Record*> records = {
      // A connection that has come and gone, and a datagram.
      log.Add(1, {1, kTcpSyn, kIsn, 0, false}), log.Add(2, {1, kTcpAck, kIsn + 1, 0, false}),
      log.Add(3, {1, kTcpAck, kIsn + 1, 10, true}), log.Add(4, {0, 0, 0, 20, false}),
      // A SYN that may not have been answered by then.
      log.Add(5, {2, kTcpSyn, kIsn, 0, false}),
      log.Add(6, {2, kTcpAck, kIsn + 1, 0, false}), log.Add(7, {2, kTcpAck, kIsn + 1, 10, false}), log.Add(8, {0, 0, 0, 20, false}),
  };
  guest.flows[1].rcv_next = kIsn + 11;  // the guest has had it all
  Replayer replayer(&guest, kLimits);
  replayer.Begin(records, 5, false, 0);
  Run(replayer, guest);
  CHECK(!guest.flows[1].open && guest.flows[2].open);
  CHECK(guest.executed.size() == 2);
  for (const auto& done : guest.executed) CHECK(done.iseq == 7 || done.iseq == 8);
  CHECK(replayer.stats().known_frames >= 2 && replayer.stats().logged_frames == 8);
}

// An active secondary: the log goes in as it comes, until a takeover ends it.
void ActiveSecondary(unsigned seed) {
  std::mt19937 random(seed);
  Guest guest(seed);
  Log log;
  guest.active = true;
  guest.delay_ns = seed % 4 * kMs;
  guest.loss = seed % 3 == 0 ? 3 : 0;
  std::map<uint16_t, uint32_t> seq;
  std::map<uint64_t, bool> requests;
  uint64_t iseq = 100, first_write = UINT64_MAX, write_ns = UINT64_MAX, followers = 0;
  Replayer replayer(&guest, ReplayLimits{1, 100 * kMs, 50 * kMs, 1});
  auto next = [&](std::vector<Record*>* records) {
    auto port = static_cast<uint16_t>(1 + random() % 20);
    if (!seq.count(port)) {
      seq[port] = kIsn;
      if (port % 3) {
        records->push_back(log.Add(iseq++, {port, kTcpSyn, kIsn, 0, false}));
        records->push_back(log.Add(iseq++, {port, kTcpAck, ++seq[port], 0, false}));
      }
    }
    uint32_t bytes = 1 + random() % 400;
    bool write = seed % 5 != 0 && random() % 50 == 0;
    if (write) first_write = std::min(first_write, iseq);
    requests[iseq] = write;
    records->push_back(log.Add(iseq++, {port, kTcpAck, seq[port], bytes, write}));
    seq[port] += bytes;
  };
  std::vector<Record*> records;
  for (unsigned i = 0; i < seed % 7; i++) next(&records);
  replayer.Begin(records, 0, true, 0);
  for (int i = 0; i < 2000; i++) {
    guest.Tick();
    std::vector<Record*> more;
    if (i % 5 == 0) next(&more);
    for (Record* record : more) replayer.Extend(record, guest.now_ns);
    replayer.Step(guest.now_ns);
    guest.now_ns += kMs;
  }
  // What went in quietly is not given in again.
  if (seed % 2) {
    for (int i = 0; i < 1000 && !replayer.quiet(); i++) {
      guest.Tick();
      replayer.Step(guest.now_ns);
      guest.now_ns += kMs;
    }
    CHECK(replayer.quiet());
    followers = guest.injected;
  }
  guest.active = false;
  replayer.Finish(ReplayLimits{10'000 * kMs, 20 * kMs, 50 * kMs, 100}, guest.now_ns);
  while (!replayer.Step(guest.now_ns)) {
    guest.Tick();
    guest.now_ns += kMs;
  }
  CHECK(replayer.stats().abandoned_frames == 0 && replayer.stats().flushed_frames == 0);
  if (followers) CHECK(guest.injected == followers && replayer.stats().logged_frames == 0);
  CHECK(guest.executed.size() == requests.size());
  for (const auto& done : guest.executed) {
    CHECK(requests.count(done.iseq) && requests[done.iseq] == done.write);
    if (done.write) write_ns = std::min(write_ns, done.at_ns);
  }
  for (const auto& done : guest.executed) CHECK(done.iseq >= first_write || done.at_ns <= write_ns || guest.loss);
}

// A write waits for earlier reads as long as it takes; nothing is given up but by a takeover.
void AnActiveSecondaryHasTime() {
  Guest guest(6);
  Log log;
  guest.active = true;
  guest.loss = 100;
  Replayer replayer(&guest, ReplayLimits{1, 100 * kMs, 50 * kMs, 1});
  replayer.Begin({log.Add(1, {3, kTcpSyn, kIsn, 0, false}), log.Add(2, {3, kTcpAck, kIsn + 1, 10, false}),
                  log.Add(3, {6, kTcpAck, kIsn, 10, true})}, 0, true, 0);
  RunFor(5000 * kMs, replayer, guest);
  CHECK(guest.executed.empty() && replayer.stats().abandoned_frames == 0);
  CHECK(guest.injected < 100);
  guest.loss = 0;
  replayer.Finish(kLimits, guest.now_ns);
  while (!replayer.Step(guest.now_ns)) {
    guest.Tick();
    guest.now_ns += kMs;
  }
  CHECK(guest.executed.size() == 2 && !guest.executed[0].write && guest.executed[1].write);
}

// A request that gets no reply holds an active secondary up for a moment only: what
// is late costs a checkpoint, and after that the guest is slower still.
void AnActiveSecondaryIsNotHeldUp() {
  Guest guest(8);
  Log log;
  guest.active = true;
  guest.answers = false;
  Replayer replayer(&guest, ReplayLimits{1, 100 * kMs, 50 * kMs, 1});
  replayer.Begin({log.Add(1, {3, kTcpAck, kIsn, 10, false}), log.Add(2, {6, kTcpAck, kIsn, 10, true})}, 0, true, 0);
  RunFor(80 * kMs, replayer, guest);
  CHECK(guest.executed.size() == 2 && guest.executed[1].write && guest.executed[1].at_ns >= 50 * kMs);
}

// The client has the whole reply when the guest has said half of it.  It is told
// so as it goes on, without the client's help.
void AcknowledgementsAreOwed() {
  Guest guest(7);
  Log log;
  guest.active = true;
  guest.answers = false;
  Replayer replayer(&guest, ReplayLimits{1, 100 * kMs, 50 * kMs, 1});
  replayer.Begin({log.Add(1, {3, kTcpAck, kIsn, 10, false}), log.Add(2, {3, kTcpAck, kIsn + 10, 0, false, false, 1000})}, 0, true, 0);
  auto run = [&](uint64_t ns) { RunFor(ns, replayer, guest); };
  run(20 * kMs);
  CHECK(guest.flows[3].seen_ack == 0 && !replayer.quiet());
  for (uint32_t said : {300, 700, 1200}) {
    guest.flows[3].seen.snd_max = said;
    run(3 * kMs);
    CHECK(guest.flows[3].seen_ack == std::min(said, 1000u));
  }
  CHECK(replayer.quiet());
  uint64_t injected = guest.injected;
  CHECK(injected <= 6);
  run(50 * kMs);
  CHECK(guest.injected == injected);
}

}  // namespace

int main() {
  for (unsigned seed = 0; seed < 300; seed++) Conversations(seed);
  WritesWaitForReplies();
  WritesWaitForALongLog();
  ServicesAreApart();
  WritesWaitForWhatClientsHave();
  LiveRequestsWaitForReplies();
  StandingStillIsNoPatience();
  WritesOfTheCheckpointDoNotCount();
  DeafGuests();
  WhatACommitCovers();
  for (unsigned seed = 0; seed < 300; seed++) ActiveSecondary(seed);
  AnActiveSecondaryHasTime();
  AnActiveSecondaryIsNotHeldUp();
  AcknowledgementsAreOwed();
  std::puts("ok");
}
