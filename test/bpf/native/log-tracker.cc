// Which inputs have arrived: random inputs, split, merged, lost, doubled and out
// of order, against a model that remembers every part; and noise.
#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "check.h"
#include "log_tracker.h"

using taphold::Piece;
using taphold::Tracker;
using Verdict = Tracker::Verdict;

namespace {

constexpr uint32_t kPart = 1448;

struct Packet {
  uint64_t iseq;
  uint32_t segments, first, count;  // parts first..first+count-1 of `segments`
};

// The model: parts that have arrived of each input.
struct Model {
  std::map<uint64_t, std::vector<bool>> parts;
  uint64_t next = 1;
  bool Complete(uint64_t iseq) const {
    auto found = parts.find(iseq);
    return found != parts.end() && std::count(found->second.begin(), found->second.end(), false) == 0;
  }
  void Advance() {
    while (Complete(next)) next++;
  }
};

void Deliver(unsigned seed, uint64_t first_iseq) {
  std::mt19937 random(seed);
  auto below = [&](uint32_t limit) { return random() % limit; };
  Tracker tracker;
  Model model;
  tracker.Reset(first_iseq);
  model.next = first_iseq;

  // Every input as packets, then shuffled a little, some lost, some doubled.
  std::vector<Packet> packets;
  for (uint64_t iseq = first_iseq; iseq < first_iseq + 2000; iseq++) {
    uint32_t segments = below(4) ? 1 : 2 + below(44);
    for (uint32_t at = 0; at < segments;) {
      uint32_t count = below(3) ? segments - at : 1 + below(segments - at);
      packets.push_back({iseq, segments, at, count});
      at += count;
    }
  }
  std::vector<Packet> sent;
  bool lossy = seed % 3 == 0, doubling = seed % 2 == 0;
  for (const Packet& packet : packets) {
    if (lossy && below(100) == 0) continue;
    sent.push_back(packet);
    if (doubling && below(20) == 0) sent.push_back(packet);
  }
  for (size_t i = 0; i < sent.size(); i++) std::swap(sent[i], sent[std::min(sent.size() - 1, i + below(8))]);

  uint64_t now_ns = 1;
  for (const Packet& packet : sent) {
    now_ns += 1000;
    uint64_t iseq = tracker.Expand(static_cast<uint32_t>(packet.iseq & 0xffffff));
    CHECK(iseq == packet.iseq);
    // TCP numbers of an input begin anywhere, and may wrap within it.
    uint32_t start = static_cast<uint32_t>(packet.iseq * 0x9e3779b9u) + packet.first * kPart;
    bool stale = packet.iseq < model.next;
    std::vector<bool>& parts = model.parts[packet.iseq];
    parts.resize(packet.segments);
    bool fresh = std::none_of(parts.begin() + packet.first, parts.begin() + packet.first + packet.count, [](bool here) { return here; });
    Verdict verdict = tracker.Add(packet.iseq, packet.segments, packet.count, {start, packet.count * kPart}, now_ns);
    CHECK(verdict == (stale || !fresh ? Verdict::kDuplicate : Verdict::kNew));
    if (verdict == Verdict::kNew) std::fill_n(parts.begin() + packet.first, packet.count, true);
    model.Advance();
    CHECK(tracker.next() == model.next);
    CHECK(tracker.hole() == (tracker.newest() >= tracker.next()));
    CHECK(tracker.hole_since_ns() <= now_ns);
    if (lossy && below(500) == 0) {
      // A commit: forwards, now and then a little back.
      uint64_t to = model.next + below(300) - std::min<uint64_t>(model.next - 1, below(100));
      tracker.SkipTo(to, now_ns);
      model.next = std::max(model.next, to);
      model.Advance();
      CHECK(tracker.next() == model.next);
    }
  }
  if (!lossy) CHECK(tracker.next() == first_iseq + 2000 && !tracker.hole());
}

void Holes() {
  Tracker tracker;
  tracker.Reset(10);
  CHECK(!tracker.hole() && tracker.newest() == 9);
  CHECK(tracker.Add(11, 1, 1, {}, 100) == Verdict::kNew);
  CHECK(tracker.hole() && tracker.hole_since_ns() == 100 && tracker.next() == 10);
  CHECK(tracker.Add(12, 1, 1, {}, 200) == Verdict::kNew);
  CHECK(tracker.hole_since_ns() == 100);  // a later one does not mend it
  CHECK(tracker.Add(10, 3, 1, {0, 1}, 300) == Verdict::kNew);
  CHECK(tracker.hole_since_ns() == 300);  // a part of it does
  CHECK(tracker.Add(14, 1, 1, {}, 350) == Verdict::kNew);
  CHECK(tracker.Add(10, 3, 2, {1, 2}, 400) == Verdict::kNew);
  CHECK(tracker.next() == 13 && tracker.hole() && tracker.hole_since_ns() == 400);  // another one
  // Two sizes of one input; more parts than it has; all of it at once.
  CHECK(tracker.Add(13, 2, 1, {0, 1}, 500) == Verdict::kNew);
  CHECK(tracker.Add(13, 3, 1, {1, 1}, 500) == Verdict::kDuplicate);
  CHECK(tracker.Add(13, 2, 60, {1, 60}, 500) == Verdict::kNew);
  CHECK(tracker.next() == 15 && !tracker.hole());
  CHECK(tracker.Add(15, 45, 0xffff, {}, 600) == Verdict::kNew);
  CHECK(tracker.next() == 16);
  // The window, and beyond.
  CHECK(tracker.Add(16 + Tracker::kWindow - 1, 1, 1, {}, 700) == Verdict::kNew);
  CHECK(tracker.Add(16 + Tracker::kWindow, 1, 1, {}, 700) == Verdict::kBeyond);
  tracker.SkipTo(17, 800);
  CHECK(tracker.Add(16 + Tracker::kWindow, 1, 1, {}, 900) == Verdict::kNew);
  tracker.SkipTo(16 + Tracker::kWindow - 1, 1000);
  CHECK(tracker.next() == 17 + Tracker::kWindow && !tracker.hole());
  tracker.SkipTo(uint64_t{1} << 40, 1100);
  CHECK(tracker.next() == uint64_t{1} << 40 && !tracker.hole());
  tracker.SkipTo(5, 1200);
  CHECK(tracker.next() == uint64_t{1} << 40);
  // Pieces that touch each other around zero.
  tracker.Reset(1);
  CHECK(tracker.Add(1, 3, 1, {0xffffffff, 1}, 1) == Verdict::kNew);
  CHECK(tracker.Add(1, 3, 1, {0, 1}, 1) == Verdict::kNew);
  CHECK(tracker.Add(1, 3, 1, {0xffffffff, 1}, 1) == Verdict::kDuplicate);
  CHECK(tracker.Add(1, 3, 1, {0xfffffffe, 3}, 1) == Verdict::kDuplicate);
  CHECK(tracker.Add(1, 3, 1, {0xfffffffe, 1}, 1) == Verdict::kNew);
  CHECK(tracker.next() == 2);
}

void Noise(unsigned seed) {
  std::mt19937_64 random(seed);
  Tracker tracker;
  tracker.Reset(1 + random() % 100000);
  for (int i = 0; i < 300000; i++) {
    uint64_t iseq = tracker.Expand(static_cast<uint32_t>(random()) & (random() % 2 ? 0xffffff : 0x1ff));
    uint64_t before = tracker.next();
    tracker.Add(iseq, 1 + random() % 0x7fff, 1 + random() % 0xffff,
                {static_cast<uint32_t>(random()), static_cast<uint32_t>(random() >> random() % 64)}, i);
    CHECK(tracker.next() >= before && tracker.newest() >= tracker.next() - 1);
    CHECK(tracker.newest() < tracker.next() + Tracker::kWindow);
    if (random() % 5000 == 0) tracker.SkipTo(tracker.next() + (random() % 2 ? random() % 100 : random() % 1000000), i);
  }
}

}  // namespace

int main() {
  for (unsigned seed = 0; seed < 60; seed++) {
    Deliver(seed, 1 + seed % 2);
    Deliver(seed, (uint64_t{1} << 24) - 700);
    Deliver(seed, (uint64_t{3} << 24) - 700);
  }
  Holes();
  for (unsigned seed = 0; seed < 5; seed++) Noise(seed);
  std::puts("ok");
}
