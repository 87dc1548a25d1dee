// The comparator on the hold thread: the tap where shadow outputs come in, orders
// from other threads, and reports to them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "compare.h"
#include "queue.h"

namespace taphold {

class ComparePort : private CompareSink {
 public:
  // Everything up to this time is to be released now: what comes after it must not
  // overtake it.
  using ReleaseDue = std::function<void(uint64_t time_ns)>;
  // A held packet may be released.
  using Release = std::function<void(Record*)>;
  using Notify = std::function<void(std::vector<CompareEvent>)>;

  // `shadow_fd` is the tap, -1: nothing is ever compared.  `held` is what the hold
  // thread keeps.  The callbacks come on that thread.
  ComparePort(int shadow_fd, Queue* held, ReleaseDue release_due, Release release, Notify notify);
  ~ComparePort();
  ComparePort(const ComparePort&) = delete;
  ComparePort& operator=(const ComparePort&) = delete;

  // Returns errno.
  int Allocate(uint32_t max_flows, size_t shadow_ring_bytes);

  // From any thread.  When these return, whatever the guest sends afterwards is
  // treated accordingly.
  void Start(const CompareLimits& limits);
  void Stop();
  void Suspend();
  // Nothing is compared before the next commit.
  void Halt();
  void Commit(uint64_t stop_ns, uint32_t epoch);

  // The rest is the hold thread's.

  // A packet was read from the hold tap, and put into `held`.
  void Primary(Record* record);
  // Likewise, but the client has it already; it is copied.
  void Audit(Record* record);
  // A packet of `held` has left before anything was compared with it; it is copied.
  void AuditHeld(Record* record);
  // A packet leaves `held` for another reason.
  void Forget(Record* record) { comparator_.Forget(record); }
  // Carries out orders, reads shadow outputs, and reports.  True if there may be more to read.
  bool Turn();
  // Packets are compared now.
  bool comparing() const { return comparator_.begun(); }
  // The tap is gone: nothing is compared any more.
  void Lose();
  // When the newest packet was sent that nothing but a commit releases all the same; 0: there is none.
  uint64_t uncompared_ns() const { return uncompared_ns_; }
  // When it wants its turn without anything having come, 0: it does not.
  uint64_t due_ns() const { return due_ns_; }
  int shadow_fd() const { return shadow_fd_; }
  const CompareStats& stats() const { return comparator_.stats(); }

 private:
  struct Orders {
    bool start = false, stop = false, halt = false, commit = false;
    CompareLimits limits{};
    uint64_t stop_ns = 0;
    uint32_t epoch = 0;
    uint64_t suspend_ns = 0;  // 0: no; else after the commit
  };

  void Settled(Record* record) override { release_(record); }
  void LeftOut(Record* record) override;
  void Report(const CompareEvent& event) override;
  bool TakeOrders();
  void Feed(Record* record, uint64_t now_ns);

  const int shadow_fd_;
  Queue* const held_;
  const ReleaseDue release_due_;
  const Release release_;
  const Notify notify_;

  std::mutex orders_mutex_;
  Orders orders_;
  std::atomic<bool> ordered_{false};  // there are orders: seen by who reads a packet that was sent later

  Comparator comparator_{this};
  bool lost_ = false;
  uint64_t due_ns_ = 0;
  uint64_t uncompared_ns_ = 0;
  uint64_t stop_ns_ = 0;  // of the last commit
  std::vector<CompareEvent> events_;
  size_t reported_ = 0;  // since the last commit
};

}  // namespace taphold
