// Which of the numbered inputs have arrived.  Pure: no clock, no I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace taphold {

// A part of an input that arrives in several packets, as a range that can
// neither overlap another part nor be counted twice: sequence numbers of TCP, or
// a hash of its own for what has none.
struct Piece {
  uint32_t start;
  uint32_t length;
};

// Numbers are contiguous from the first one expected up to next() - 1.  Of those
// beyond, as many as the window holds are remembered one by one.
class Tracker {
 public:
  static constexpr uint64_t kWindow = 1 << 16;
  // More unmerged parts than this are not remembered: the input stays incomplete.
  static constexpr size_t kMaxPieces = 1 << 16;

  enum class Verdict {
    kNew,        // keep it
    kDuplicate,  // it, or something of the same number that covers it, was here
    kBeyond,     // too far ahead
  };

  Tracker() : slots_(kWindow) {}

  // Starts anew: `next` is the first number expected, at least 1.
  void Reset(uint64_t next);

  // The number of which only the low 24 bits are known: the one nearest to what
  // is expected.
  uint64_t Expand(uint32_t iseq24) const;

  // A packet has arrived that holds `arrived` of the `segments` packets of input
  // `iseq`.
  Verdict Add(uint64_t iseq, uint32_t segments, uint32_t arrived, Piece piece, uint64_t now_ns);

  // Nothing before `next` is expected any more.  Does not go back.
  void SkipTo(uint64_t next, uint64_t now_ns);

  // The lowest number that is not complete.
  uint64_t next() const { return next_; }
  // The highest number of which anything was seen, or next() - 1.
  uint64_t newest() const { return newest_; }
  // Numbers that are missing, or in part, before the newest.
  bool hole() const { return newest_ >= next_; }
  // How long the hole has been there without anything arriving in its place.
  uint64_t hole_since_ns() const { return hole_since_ns_; }

 private:
  struct Slot {
    uint16_t segments = 0;  // 0: nothing has arrived
    uint16_t seen = 0;
    bool complete() const { return segments != 0 && seen == segments; }
  };

  Slot& At(uint64_t iseq) { return slots_[iseq % kWindow]; }
  bool Insert(uint64_t iseq, Piece piece);
  void Clear(uint64_t iseq);
  void Advance(uint64_t now_ns);

  std::vector<Slot> slots_;
  std::unordered_map<uint64_t, std::vector<Piece>> pieces_;  // of incomplete inputs
  size_t piece_count_ = 0;
  uint64_t next_ = 1;
  uint64_t newest_ = 0;
  uint64_t hole_since_ns_ = 0;
};

}  // namespace taphold
