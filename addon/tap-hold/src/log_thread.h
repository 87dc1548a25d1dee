// The log thread: keeps the input that the primary's gate has mirrored, says how
// much of it is here, and gives it to the guest: at once, while the secondary is
// active, or after a takeover.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "log_replay.h"
#include "log_tracker.h"
#include "queue.h"

namespace taphold {

enum class LogNotice : int {
  kGap = 0,       // an input is missing: only a checkpoint makes up for it; with its number
  kLimit = 1,     // the log holds more, or older input, than the limits allow
  kLost = 2,      // somebody deleted the log tap
  kReplayed = 3,  // the replay is over
};

struct LogLimits {
  size_t packets;
  size_t bytes;
  uint64_t age_ns;
  uint64_t gap_ns;       // how long a missing input may be late
  uint64_t gap_packets;  // how many later ones may come first
};

struct LogStats {
  uint64_t logged_packets = 0;  // in the log now
  uint64_t logged_bytes = 0;
  uint64_t oldest_ns = 0;   // arrival of the oldest one, 0: none
  uint64_t acked_iseq = 0;  // this and all before it are here, or not needed any more
  uint64_t newest_iseq = 0;
  uint64_t epoch = 0;
  uint64_t received_packets = 0;
  uint64_t received_bytes = 0;
  uint64_t forgotten_packets = 0;  // covered by a commit
  uint64_t delivered_packets = 0;  // given to an active secondary; some twice
  uint64_t duplicate_packets = 0;
  uint64_t beyond_packets = 0;     // so far ahead that the log could not keep track
  uint64_t unexpected_packets = 0; // while nothing was to be logged, or from the tunnel after a takeover
  uint64_t malformed_packets = 0;
  uint64_t failed_packets = 0;  // the kernel would not take them
  uint64_t full_events = 0;     // times the ring had no room and reading stopped
  uint64_t gaps = 0;            // times that a gap was reported
  uint64_t acks = 0;
  bool device_lost = false;
  ReplayStats replay;
};

class InputLog : private ReplayTarget {
 public:
  using Notify = std::function<void(LogNotice, uint64_t value)>;

  InputLog(int tap_fd, LogLimits limits, Notify notify);
  ~InputLog() override;
  InputLog(const InputLog&) = delete;
  InputLog& operator=(const InputLog&) = delete;

  // Returns errno.
  int Start(size_t ring_bytes);
  // Ends the thread; the log is lost.
  void Stop();

  // The calls below take effect in this order, on the thread.

  // Empties the log and expects `next_iseq`; what arrived before this call is
  // forgotten, too.
  void Reset(uint64_t epoch, uint64_t next_iseq);
  // A checkpoint has brought the effects of all input up to `iseq`, which need
  // not be here any more; perhaps not of the last `margin` of it. Gap and limit
  // may be noticed again.
  void Forget(uint64_t iseq, uint64_t margin);
  // An active secondary has loaded the checkpoint of the newest Forget: gives the
  // log to the guest, and what comes as it comes.  `flows_fd`: the map of flows,
  // taken over, of which only those of `generation` count.  The limits' total
  // time does not matter.
  void Deliver(int flows_fd, uint32_t generation, ReplayLimits limits);
  // Nothing goes in any more, until Deliver or Replay.
  void Suspend();
  // Gives the log to the guest, or what has not been delivered of it, then
  // whatever live clients send.
  void Replay(int flows_fd, uint32_t generation, ReplayLimits limits);
  LogStats Snapshot();

 private:
  enum class Phase { kIdle, kLogging, kReplaying, kForwarding };
  struct Command {
    enum class Kind { kReset, kForget, kDeliver, kSuspend, kReplay } kind;
    uint64_t epoch;
    uint64_t iseq;
    uint64_t margin;
    uint64_t since_ns;
    uint32_t generation;
    int flows_fd;
    ReplayLimits limits;
  };

  void Inject(Record* record) override;
  bool Look(const shadow_key& key, shadow_flow* flow) override;

  void Run();
  int TimeoutMs() const;
  void Order(const Command& command);
  void Execute();
  void Execute(const Command& command);
  bool ReadBatch();
  bool Keep(Record* record, const struct log_tag& tag);
  bool Log(Record* record, const struct log_tag& tag);
  bool Delivering() const { return phase_ == Phase::kLogging && replayer_ && !suspended_; }
  void UseFlows(const Command& command);
  void BeginDelivery(const Command& command);
  void EndDelivery();
  void DeliverNew();
  std::vector<Record*> Contiguous() const;
  void BeginReplay(const Command& command);
  bool StepReplay();
  void Acknowledge();
  void SendAck();
  void NoticeTrouble();
  void Publish();
  void Poll(bool for_packets);
  void Wake();
  void Empty();

  const int tap_fd_;
  const LogLimits limits_;
  const Notify notify_;
  int epoll_fd_ = -1;
  int wake_fd_ = -1;
  int flows_fd_ = -1;
  uint32_t generation_ = 0;
  pthread_t thread_{};
  bool running_ = false;
  std::atomic<bool> stop_{false};

  std::mutex commands_mutex_;
  std::vector<Command> commands_;

  // The rest belongs to the thread, but for published_.
  Phase phase_ = Phase::kIdle;
  Queue queue_;
  Tracker tracker_;
  std::unique_ptr<Replayer> replayer_;  // while logging: of an active secondary
  bool suspended_ = false;
  std::vector<Record*> undelivered_;  // logged, but something is missing before them
  LogStats stats_;
  uint64_t now_ns_ = 0;
  uint64_t since_ns_ = 0;    // what arrived before is of no interest
  uint64_t committed_ = 0;   // input up to here is covered by a commit
  uint64_t told_iseq_ = 0;   // what the primary was told last
  uint64_t repeat_ns_ = 0;   // when to tell it again, 0: not
  bool polling_packets_ = true;
  bool gap_noticed_ = false;
  bool limit_noticed_ = false;

  std::mutex published_mutex_;
  LogStats published_;
};

}  // namespace taphold
