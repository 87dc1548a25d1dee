#include "queue.h"

#include <sys/mman.h>

#include <cerrno>

namespace taphold {
namespace {

constexpr size_t Align(size_t bytes) { return (bytes + 15) & ~size_t{15}; }

}  // namespace

Queue::~Queue() {
  if (ring_) munmap(ring_, ring_bytes_);
}

int Queue::Allocate(size_t ring_bytes) {
  void* memory = mmap(nullptr, ring_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return errno;
  // What passes through is large and soon gone: it should not cost a fault per page.
  (void)madvise(memory, ring_bytes, MADV_HUGEPAGE);
  ring_ = static_cast<uint8_t*>(memory);
  ring_bytes_ = ring_bytes;
  return 0;
}

Record* Queue::Reserve(size_t max_frame_bytes) {
  size_t need = Align(sizeof(Record) + max_frame_bytes);
  if (packets_ == 0) head_ = tail_ = 0;
  bool wrapped = packets_ != 0 && tail_ <= head_;
  if (wrapped) return head_ - tail_ >= need ? At(tail_) : nullptr;
  // A record's room always ends before the ring does, by one record at least:
  // that one says where to go on when the next does not fit.
  if (ring_bytes_ - tail_ >= need + sizeof(Record)) return At(tail_);
  if (head_ < need) return nullptr;
  At(tail_)->span_bytes = 0;
  tail_ = 0;
  return At(0);
}

void Queue::Commit(Record* record) {
  record->span_bytes = static_cast<uint32_t>(Align(sizeof(Record) + record->frame_bytes));
  tail_ += record->span_bytes;
  packets_++;
  frame_bytes_ += record->frame_bytes;
}

Record* Queue::After(const Record* record) const {
  auto at = static_cast<size_t>(reinterpret_cast<const uint8_t*>(record) - ring_);
  size_t next = at + record->span_bytes;
  if (next == tail_) return nullptr;
  if (At(next)->span_bytes == 0) next = 0;
  return next == tail_ ? nullptr : At(next);
}

void Queue::Pop() {
  Record* record = At(head_);
  packets_--;
  frame_bytes_ -= record->frame_bytes;
  head_ += record->span_bytes;
  if (packets_ && At(head_)->span_bytes == 0) head_ = 0;
}

}  // namespace taphold
