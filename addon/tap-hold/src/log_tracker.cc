#include "log_tracker.h"

#include "wire.h"

namespace taphold {
namespace {

constexpr uint64_t kIseqMask = (uint64_t{1} << MIRROR_ISEQ_BITS) - 1;
constexpr uint64_t kIseqHalf = uint64_t{1} << (MIRROR_ISEQ_BITS - 1);

static_assert(Tracker::kWindow < kIseqHalf, "what is ahead must not look like what is behind");

}  // namespace

void Tracker::Reset(uint64_t next) {
  slots_.assign(kWindow, Slot{});
  pieces_.clear();
  piece_count_ = 0;
  next_ = next;
  newest_ = next - 1;
}

uint64_t Tracker::Expand(uint32_t iseq24) const {
  uint64_t ahead = (iseq24 - next_) & kIseqMask;
  if (ahead < kIseqHalf) return next_ + ahead;
  uint64_t behind = kIseqMask + 1 - ahead;
  return next_ > behind ? next_ - behind : 0;
}

Tracker::Verdict Tracker::Add(uint64_t iseq, uint32_t segments, uint32_t arrived, Piece piece,
                              uint64_t now_ns) {
  if (iseq < next_) return Verdict::kDuplicate;
  if (iseq - next_ >= kWindow) return Verdict::kBeyond;
  Slot& slot = At(iseq);
  // Two sizes of one input: one of them is forged or garbled.
  if (slot.segments != 0 && slot.segments != segments) return Verdict::kDuplicate;
  if (slot.complete()) return Verdict::kDuplicate;
  bool first = slot.segments == 0;
  slot.segments = static_cast<uint16_t>(segments);
  if (first && arrived >= segments) {
    slot.seen = slot.segments;
  } else if (Insert(iseq, piece)) {
    uint32_t seen = slot.seen + arrived;
    slot.seen = static_cast<uint16_t>(seen < segments ? seen : segments);
  } else {
    return Verdict::kDuplicate;
  }
  if (!hole() || iseq == next_) hole_since_ns_ = now_ns;
  if (iseq > newest_) newest_ = iseq;
  Advance(now_ns);
  return Verdict::kNew;
}

// False if it overlaps what is there.  Then some of it may be new all the same,
// but how much cannot be told, and the input stays incomplete.
bool Tracker::Insert(uint64_t iseq, Piece piece) {
  std::vector<Piece>& pieces = pieces_[iseq];
  for (const Piece& other : pieces) {
    if (piece.start - other.start < other.length || other.start - piece.start < piece.length) {
      return false;
    }
  }
  for (Piece& other : pieces) {
    if (other.start + other.length == piece.start) {
      other.length += piece.length;
      return true;
    }
    if (piece.start + piece.length == other.start) {
      other.start = piece.start;
      other.length += piece.length;
      return true;
    }
  }
  if (piece_count_ == kMaxPieces) return false;
  pieces.push_back(piece);
  piece_count_++;
  return true;
}

void Tracker::SkipTo(uint64_t next, uint64_t now_ns) {
  if (next <= next_) return;
  if (next - next_ >= kWindow) {
    Reset(next);
    return;
  }
  while (next_ < next) Clear(next_++);
  if (newest_ < next_ - 1) newest_ = next_ - 1;
  hole_since_ns_ = now_ns;
  Advance(now_ns);
}

void Tracker::Clear(uint64_t iseq) {
  At(iseq) = Slot{};
  auto found = pieces_.find(iseq);
  if (found == pieces_.end()) return;
  piece_count_ -= found->second.size();
  pieces_.erase(found);
}

void Tracker::Advance(uint64_t now_ns) {
  if (!At(next_).complete()) return;
  while (At(next_).complete()) Clear(next_++);
  hole_since_ns_ = now_ns;
}

}  // namespace taphold
