// The hold thread: reads tagged packets from the hold tap, keeps them in order,
// and writes back, without their tag, those the world may see.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>

#include "compare_port.h"
#include "hold_times.h"
#include "queue.h"

namespace taphold {

enum class Notice : int {
  kHeld = 0,   // something is waiting
  kLimit = 1,  // more is waiting than the limits allow
  kLost = 2,   // somebody deleted the hold tap
  kShadowLost = 3,  // likewise the tap of shadow outputs
};

struct Limits {
  size_t packets;
  size_t bytes;
};

// How long it waits, after a packet that needs a commit, for others that may share it.
struct Gathering {
  uint64_t quiet_ns = 0;  // until nothing came for so long,
  uint64_t most_ns = 0;   // but for no longer than this
};

struct Stats {
  uint64_t held_packets = 0;  // waiting now
  uint64_t held_bytes = 0;
  uint64_t oldest_ns = 0;  // time of the oldest one, 0: none
  uint64_t received_packets = 0;
  uint64_t received_bytes = 0;
  uint64_t released_packets = 0;
  uint64_t released_bytes = 0;
  uint64_t discarded_packets = 0;
  uint64_t malformed_packets = 0;  // on the hold tap, but not from the gate
  uint64_t failed_packets = 0;     // the kernel would not take them back
  uint64_t full_events = 0;        // times the ring had no room and reading stopped
  HoldTimes hold_times[kReleases];  // of released packets, by enum Release
  uint64_t uncompared_packets = 0;  // released by a commit, and not to be compared
  uint64_t uncompared_ns = 0;       // how long these had been held
  uint64_t hold_ns_max = 0;
  bool device_lost = false;  // deleted by somebody else: nothing comes or goes any more
  bool shadow_lost = false;  // likewise the tap of shadow outputs: nothing is compared any more
  CompareStats compare;
};

class Worker {
 public:
  // Called on the hold thread, at most once per kind between two calls of
  // SetWatermark or Discard; with the time of the oldest packet waiting.
  using Notify = std::function<void(Notice, uint64_t oldest_ns)>;

  // `shadow_fd` is the tap of shadow outputs, -1: nothing is compared.
  Worker(int tap_fd, Limits limits, Notify notify, int shadow_fd = -1, ComparePort::Notify found = {});
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Returns errno.
  int Start(size_t ring_bytes, uint32_t max_flows = 0, size_t shadow_ring_bytes = 0);
  // Ends the thread; what is still held is lost.
  void Stop();

  // Releases everything sent at or before `time_ns`, now and as it comes.  If it
  // goes back, nothing is compared before the next Commit.
  void SetWatermark(uint64_t time_ns);
  // Likewise, and what was sent after it is compared with shadow outputs of `epoch`.
  void Commit(uint64_t time_ns, uint32_t epoch);
  // A checkpoint is about to be asked for: see Comparator::Suspend.
  void SuspendCompare() { port_.Suspend(); }
  // nullptr: no more.
  void SetCompare(const CompareLimits* limits);
  // When kHeld is told: see Gathering.
  void SetGathering(Gathering gathering);
  // Forgets everything sent until now, also what is still on its way here.
  void Discard();
  // Where the gate's programs and the thread tell each other how far they are; it
  // must outlive the thread.
  //   logged_iseq          the newest input in the secondary's log: releases what needs no more
  //   drained_ns           up to there everything has been given back or discarded
  //   unlogged_drained_ns  likewise everything that needed an input
  void Share(const uint64_t* logged_iseq, uint64_t* drained_ns, uint64_t* unlogged_drained_ns);
  Stats Snapshot();

 private:
  void Run();
  bool ReadBatch();
  bool ReleaseBatch();
  bool ReleaseDue(int limit, uint64_t least_ns = 0);
  bool ReleaseLogged(uint64_t discard_ns);
  void GiveBack(Record* record, Release cause);
  void Leave(Record* record, Release cause);
  void Pop();
  void PopGone();
  uint64_t DueNs() const;
  bool WaitsForCommit() const;
  uint64_t GatheredNs() const;
  void CountGathered();
  void CountRelease(const Record* record, Release cause, uint64_t now_ns);
  void Publish();
  void ReportDrained(uint64_t drained_ns);
  void Poll(bool for_packets);
  void Wake();

  const int tap_fd_;
  const Limits limits_;
  const Notify notify_;
  int epoll_fd_ = -1;
  int wake_fd_ = -1;
  pthread_t thread_{};
  bool running_ = false;

  std::atomic<uint64_t> watermark_ns_{0};
  std::atomic<uint64_t> discard_ns_{0};
  std::atomic<const uint64_t*> logged_iseq_{nullptr};
  std::atomic<uint64_t*> drained_ns_{nullptr};
  std::atomic<uint64_t*> unlogged_drained_ns_{nullptr};
  std::atomic<uint64_t> quiet_ns_{0};
  std::atomic<uint64_t> most_ns_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> rearm_{false};  // notices may be sent again

  // The rest belongs to the thread, but for published_.
  Queue queue_;
  ComparePort port_;
  Record* unexamined_ = nullptr;  // the oldest that the input log may release; nullptr: none
  size_t gone_packets_ = 0;       // that have left from the middle of the queue
  size_t gone_bytes_ = 0;
  size_t commit_packets_ = 0;  // that only a commit releases
  uint64_t newest_ns_ = 0;     // when the newest of these was sent
  bool gathering_ = false;     // somebody will be told of them, when others had time to come
  unsigned in_vain_ = 0;       // times in a row that waiting for others gathered none
  unsigned at_once_ = 0;       // times since then that nobody was waited for
  Stats stats_;
  uint64_t released_ns_ = 0;  // the watermark or discard that was last carried out
  uint64_t popped_ns_ = 0;    // when the newest packet was sent that has left the queue
  uint64_t drained_ns_reported_ = 0;
  bool polling_packets_ = true;
  bool noticed_[2] = {false, false};

  std::mutex published_mutex_;
  Stats published_;
};

}  // namespace taphold
