#include "compare_port.h"

#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "clock.h"
#include "held_packet.h"

namespace taphold {
namespace {

constexpr int kBatch = 64;
constexpr size_t kAuditRingBytes = 16 << 20;
// A checkpoint is on its way after the first; the rest is only counted.
constexpr size_t kMaxReports = 64;

}  // namespace

ComparePort::ComparePort(int shadow_fd, Queue* held, ReleaseDue release_due, Release release, Notify notify)
    : shadow_fd_(shadow_fd),
      held_(held),
      release_due_(std::move(release_due)),
      release_(std::move(release)),
      notify_(std::move(notify)) {}

ComparePort::~ComparePort() {
  if (shadow_fd_ >= 0) close(shadow_fd_);
}

int ComparePort::Allocate(uint32_t max_flows, size_t shadow_ring_bytes) {
  if (shadow_fd_ < 0) return 0;
  uint64_t secret;
  if (getrandom(&secret, sizeof(secret), 0) != sizeof(secret)) return errno;
  return comparator_.Allocate(max_flows, shadow_ring_bytes, kAuditRingBytes, secret);
}

void ComparePort::Start(const CompareLimits& limits) {
  std::lock_guard<std::mutex> lock(orders_mutex_);
  orders_.start = true;
  orders_.limits = limits;
  ordered_.store(true);
}

void ComparePort::Stop() {
  std::lock_guard<std::mutex> lock(orders_mutex_);
  orders_ = {};
  orders_.stop = true;
  ordered_.store(true);
}

void ComparePort::Suspend() {
  std::lock_guard<std::mutex> lock(orders_mutex_);
  if (!orders_.suspend_ns) orders_.suspend_ns = NowNs();
  ordered_.store(true);
}

void ComparePort::Halt() {
  std::lock_guard<std::mutex> lock(orders_mutex_);
  orders_.halt = true;
  orders_.commit = false;
  ordered_.store(true);
}

void ComparePort::Commit(uint64_t stop_ns, uint32_t epoch) {
  std::lock_guard<std::mutex> lock(orders_mutex_);
  orders_.commit = true;
  orders_.stop_ns = stop_ns;
  orders_.epoch = epoch;
  orders_.suspend_ns = 0;  // it was for this
  ordered_.store(true);
}

// True if everything held was given to the comparator anew.
bool ComparePort::TakeOrders() {
  if (!ordered_.load()) return false;
  Orders orders;
  {
    std::lock_guard<std::mutex> lock(orders_mutex_);
    std::swap(orders, orders_);
    ordered_.store(false);
  }
  if (orders.commit) release_due_(orders.stop_ns);
  uint64_t now_ns = NowNs();
  if (orders.halt) comparator_.Halt();
  if (orders.stop) comparator_.Stop();
  if (orders.start && !lost_) comparator_.Start(orders.limits);
  if (orders.commit) {
    comparator_.Commit(orders.stop_ns, orders.epoch);
    reported_ = 0;
  }
  bool anew = orders.halt || orders.stop || orders.commit;
  if (anew) uncompared_ns_ = 0;
  if (orders.commit) stop_ns_ = orders.stop_ns;
  for (Record* record = anew ? held_->front() : nullptr; record; record = held_->After(record)) {
    if (!(record->flags & kGone)) Feed(record, now_ns);
  }
  if (orders.commit) comparator_.Resume(now_ns);
  if (orders.suspend_ns) comparator_.Suspend(orders.suspend_ns);
  return anew;
}

void ComparePort::Primary(Record* record) {
  if (shadow_fd_ < 0) return;
  if (!TakeOrders()) Feed(record, NowNs());
}

void ComparePort::Feed(Record* record, uint64_t now_ns) {
  record->compared.flow = 0;
  if (!(record->flags & kUncompared)) comparator_.Primary(record, now_ns);
  if (!record->compared.flow && !(record->flags & kGone)) LeftOut(record);
}

// What waits for the input log, too, is not worth a checkpoint.
void ComparePort::LeftOut(Record* record) {
  if (!record->iseq && record->time_ns > stop_ns_) uncompared_ns_ = std::max(uncompared_ns_, record->time_ns);
}

void ComparePort::Audit(Record* record) {
  if (shadow_fd_ < 0) return;
  TakeOrders();
  comparator_.Audit(record, NowNs());
}

// Orders that came before the packet were carried out when it was read.
void ComparePort::AuditHeld(Record* record) {
  if (shadow_fd_ >= 0) comparator_.AuditHeld(record, NowNs());
}

bool ComparePort::Turn() {
  if (shadow_fd_ < 0) return false;
  TakeOrders();
  const uint64_t now_ns = NowNs();  // of a batch: it is compared with milliseconds
  bool more = true;
  for (int i = 0; i < kBatch && more; i++) {
    Record* record = comparator_.ReserveShadow(kMaxFrameBytes);
    shadow_tag tag;
    int error;
    if (ReadPacket(shadow_fd_, SHADOW_MAGIC, &tag, sizeof(tag), record, &error)) {
      record->compared.epoch = tag.epoch;
      record->time_ns = now_ns;  // its own is of another host's clock
      if (comparator_.KeepShadow(record) && !TakeOrders()) comparator_.Shadow(record, now_ns);
    } else if (error) {
      more = false;  // EAGAIN, or the device is no more: epoll tells
    } else {
      comparator_.stats().shadow_malformed++;
    }
  }
  due_ns_ = comparator_.CheckLate(NowNs());
  if (!events_.empty()) notify_(std::exchange(events_, {}));
  return more;
}

void ComparePort::Lose() {
  lost_ = true;
  Stop();
}

void ComparePort::Report(const CompareEvent& event) {
  if (reported_++ < kMaxReports) events_.push_back(event);
}

}  // namespace taphold
