// The comparator under arbitrary traffic and orders.  Packets are either noise or
// sensible ones of a few flows, so that much is equal and something differs.  An
// oracle knows what the secondary has said in this epoch, and nothing that it has
// not said may be settled.
#include "compare.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

#include "input.h"
#include "said.h"

using namespace taphold;
using namespace said;

namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr size_t kMaxNoiseBytes = 200;

void Require(bool holds) {
  if (!holds) std::abort();
}

// What a record says, for the oracle: for each byte of a TCP stream, or for a
// datagram, something that both machines would have in common.
std::set<std::string> Claims(Record* record) {
  std::set<std::string> claims;
  CompareKey key;
  if (!ParseCompared(record, &key)) return claims;
  std::string flow(reinterpret_cast<const char*>(&key), sizeof(key));
  const Compared& c = record->compared;
  const char* payload = reinterpret_cast<const char*>(record->frame()) + c.payload_at;
  if (key.kind == FlowKind::kTcp) {
    if (c.tcp_flags & kTcpRst) return {flow + "rst" + std::to_string(c.seq)};
    for (uint32_t i = 0; i < c.payload_bytes; i++) claims.insert(flow + std::to_string(c.seq + i) + "=" + payload[i]);
    if (c.tcp_flags & kTcpSyn) claims.insert(flow + "syn" + std::to_string(c.options));
    if (c.tcp_flags & kTcpFin) claims.insert(flow + "fin" + std::to_string(c.seq + c.payload_bytes));
  } else if (key.kind != FlowKind::kOther) {
    size_t unit = c.unit_bytes && c.payload_bytes / c.unit_bytes < 100 ? c.unit_bytes : c.payload_bytes + size_t{1};
    for (size_t at = 0; at == 0 || at < c.payload_bytes; at += unit) {
      claims.insert(flow + std::string(payload + at, std::min(unit, c.payload_bytes - at)));
    }
  }
  return claims;
}

class Machine : public CompareSink {
 public:
  Machine() {
    Require(comparator_.Allocate(4, 64 << 10, 8 << 10, 42) == 0);
    Require(held_.Allocate(32 << 10) == 0);
  }

  void Settled(Record* record) override {
    Require(!(record->flags & kGone) && record->time_ns > stop_ns_ && record->time_ns <= until_ns_);
    for (const std::string& claim : Claims(record)) Require(said_.count(claim));
    record->flags |= kGone;
  }

  void LeftOut(Record* record) override { Require(!(record->flags & kGone) && !record->compared.flow && record->time_ns > stop_ns_); }

  void Report(const CompareEvent& event) override { Require(event.age_ns < ~0u * kMs); }

  void Step(Input* input) {
    now_ns_ += input->Below(8) * kMs / 4;
    switch (input->Below(16)) {
      default: return Primary(input);
      case 6: case 7: case 8: case 9: case 10: case 11: return Shadow(input);
      case 12: return Audit(input);
      case 13: return Commit(input);
      case 14:
        comparator_.Suspend(now_ns_);
        until_ns_ = std::min(until_ns_, now_ns_);
        return;
      case 15: return Other(input);
    }
  }

 private:
  void Fill(Record* record, const Frame& frame, Input* input) {
    std::memset(static_cast<void*>(record), 0, sizeof(*record));
    std::copy(frame.begin(), frame.end(), record->frame());
    record->frame_bytes = static_cast<uint32_t>(frame.size());
    record->time_ns = now_ns_;
    if (input->Below(8) == 0) record->vlan_proto = 0x81;
    VnetHeader vnet{};
    if (input->Below(8) == 0) {
      vnet.gso_type = 5;
      vnet.gso_size = static_cast<uint16_t>(input->Below(40));
      vnet.flags = static_cast<uint8_t>(input->Below(2));
      vnet.csum_start = static_cast<uint16_t>(input->Below(80));
    }
    std::memcpy(record->vnet, &vnet, sizeof(vnet));
  }

  // Bytes that depend on their place alone; now and then the secondary has one wrong.
  // Not the primary: what it says again is not compared again.
  std::string Text(uint32_t at, bool right, Input* input) {
    std::string text(input->Below(60), 0);
    for (char& byte : text) byte = static_cast<char>('a' + at++ * 7 % 26);
    if (!right && !text.empty() && input->Below(16) == 0) text[input->Below(static_cast<uint32_t>(text.size()))] ^= 1;
    return text;
  }

  Frame Some(bool right, Input* input) {
    const Manner manner{static_cast<uint16_t>(input->Below(3)), 64, 0, 0};
    switch (input->Below(8)) {
      case 0: {
        Frame noise(input->Below(kMaxNoiseBytes));
        for (uint8_t& byte : noise) byte = input->Byte();
        for (size_t at : {20, 23, 24, 27, 28, 31}) if (right && at < noise.size()) noise[at] = 0;  // no TCP
        return noise;
      }
      case 1: return Udp(Text(input->Below(4), right, input), manner, static_cast<uint16_t>(input->Below(3)));
      case 2: {
        std::string text = Text(0, right, input);
        return Ipv4(17, Frame(text.begin(), text.end()), manner, static_cast<uint16_t>(0x2000 | input->Below(2)));
      }
      default: {
        Segment s;
        s.seq = 0xffffff80u + input->Below(256);
        s.payload = Text(s.seq, right, input);
        const uint8_t flags[] = {kTcpAck, kTcpAck, kTcpAck, kTcpAck, kTcpAck | kTcpFin, kTcpSyn | kTcpAck, kTcpRst, kTcpAck | kTcpUrg};
        s.flags = flags[input->Below(sizeof(flags))];
        if (s.flags & kTcpSyn) s.payload.clear();
        s.ack = 5000 + input->Below(3);
        s.port = static_cast<uint16_t>(input->Below(6));
        s.ipv6 = input->Below(4) == 0;
        return Tcp(s, manner);
      }
    }
  }

  void Primary(Input* input) {
    Frame frame = Some(true, input);
    Record* record = held_.Reserve(frame.size());
    if (!record) return;
    Fill(record, frame, input);
    held_.Commit(record);
    comparator_.Primary(record, now_ns_);
  }

  void Audit(Input* input) {
    Frame frame = Some(true, input);
    Record* record = held_.Reserve(frame.size());
    if (!record) return;
    Fill(record, frame, input);
    comparator_.Audit(record, now_ns_);
  }

  void Shadow(Input* input) {
    Frame frame = Some(false, input);
    Record* record = comparator_.ReserveShadow(frame.size());
    Fill(record, frame, input);
    record->compared.epoch = epoch_ + (input->Below(8) == 0 ? input->Below(3) - 1 : 0);
    std::set<std::string>& heard = record->compared.epoch == epoch_ ? said_ : record->compared.epoch == epoch_ + 1 ? next_said_ : void_said_;
    heard.merge(Claims(record));
    if (comparator_.KeepShadow(record)) comparator_.Shadow(record, now_ns_);
  }

  void Commit(Input* input) {
    uint64_t back_ns = input->Below(4) * kMs;
    stop_ns_ = std::max(stop_ns_, now_ns_ - back_ns);
    until_ns_ = ~uint64_t{0};
    epoch_++;
    said_ = std::move(next_said_);
    next_said_.clear();
    comparator_.Commit(stop_ns_, epoch_);
    while (Record* record = held_.front()) {
      if (record->time_ns > stop_ns_ && !(record->flags & kGone)) break;
      held_.Pop();
    }
    Refeed();
    comparator_.Resume(now_ns_);
  }

  void Refeed() {
    for (Record* record = held_.front(); record; record = held_.After(record)) {
      if (!(record->flags & kGone)) comparator_.Primary(record, now_ns_);
    }
  }

  void Other(Input* input) {
    switch (input->Below(8)) {
      case 0:
        comparator_.Stop();
        Refeed();
        return;
      case 1: case 2:
        comparator_.Start({kMs * (1 + input->Below(4)), 20 * kMs, 5 * kMs, 1000 + input->Below(4000), 1 + input->Below(20)});
        return;
      case 3:  // the oldest goes for another reason
        if (Record* record = held_.front()) {
          if (!(record->flags & kGone)) comparator_.Forget(record);
          held_.Pop();
        }
        return;
      default:
        now_ns_ += input->Below(64) * kMs;
        comparator_.CheckLate(now_ns_);
    }
  }

  Comparator comparator_{this};
  Queue held_;
  uint64_t now_ns_ = 1000 * kMs, stop_ns_ = 0, until_ns_ = ~uint64_t{0};
  uint32_t epoch_ = 1;
  std::set<std::string> said_{}, next_said_{}, void_said_{};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  Input input(bytes, count);
  Machine machine;
  while (!input.empty()) machine.Step(&input);
  return 0;
}
