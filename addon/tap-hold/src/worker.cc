#include "worker.h"

#include <arpa/inet.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "clock.h"
#include "held_packet.h"

namespace taphold {
namespace {

// Reading and releasing take turns, so that neither starves the other.
constexpr int kBatch = 64;
// The watermark that releases everything.
constexpr uint64_t kEndOfTime = UINT64_MAX;
// A packet that only waits for the input log is usually released within this
// time.  Then it wants a commit, like all others.
constexpr uint64_t kPatienceNs = 10'000'000;
constexpr uint64_t kNsPerSecond = 1'000'000'000;
// Where waiting for others was in vain so often in a row, it is tried only now and then.
constexpr unsigned kVainTries = 4;
constexpr unsigned kTryAgain = 32;

}  // namespace

Worker::Worker(int tap_fd, Limits limits, Notify notify, int shadow_fd, ComparePort::Notify found)
    : tap_fd_(tap_fd),
      limits_(limits),
      notify_(std::move(notify)),
      port_(shadow_fd, &queue_, [this](uint64_t time_ns) { ReleaseDue(INT_MAX, time_ns); },
            [this](Record* record) { Leave(record, Release::kMatch); }, std::move(found)) {}

Worker::~Worker() {
  Stop();
  if (epoll_fd_ >= 0) close(epoll_fd_);
  if (wake_fd_ >= 0) close(wake_fd_);
  close(tap_fd_);
}

int Worker::Start(size_t ring_bytes, uint32_t max_flows, size_t shadow_ring_bytes) {
  if (int error = queue_.Allocate(ring_bytes)) return error;
  if (int error = port_.Allocate(max_flows, shadow_ring_bytes)) return error;
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (epoll_fd_ < 0 || wake_fd_ < 0) return errno;
  for (int fd : {tap_fd_, wake_fd_, port_.shadow_fd()}) {
    if (fd < 0) continue;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) < 0) return errno;
  }
  auto run = [](void* self) -> void* {
    static_cast<Worker*>(self)->Run();
    return nullptr;
  };
  // Not std::thread: it cannot report that there are too many threads.
  if (int error = pthread_create(&thread_, nullptr, run, this)) return error;
  running_ = true;
  pthread_setname_np(thread_, "tap-hold");
  return 0;
}

void Worker::Stop() {
  if (!running_) return;
  stop_.store(true);
  Wake();
  pthread_join(thread_, nullptr);
  running_ = false;
}

void Worker::SetWatermark(uint64_t time_ns) {
  // When it goes back, what waits behind it must not be overtaken by what matches.
  if (time_ns < watermark_ns_.load()) port_.Halt();
  watermark_ns_.store(time_ns);
  rearm_.store(true);
  Wake();
}

void Worker::Commit(uint64_t time_ns, uint32_t epoch) {
  // In this order: who compares in the new epoch sees what must leave before.
  watermark_ns_.store(time_ns);
  port_.Commit(time_ns, epoch);
  rearm_.store(true);
  Wake();
}

void Worker::SetCompare(const CompareLimits* limits) {
  if (limits) {
    port_.Start(*limits);
  } else {
    port_.Stop();
  }
  Wake();
}

void Worker::SetGathering(Gathering gathering) {
  quiet_ns_.store(gathering.quiet_ns);
  most_ns_.store(gathering.most_ns);
  Wake();
}

void Worker::Discard() {
  discard_ns_.store(NowNs());
  rearm_.store(true);
  Wake();
}

void Worker::Share(const uint64_t* logged_iseq, uint64_t* drained_ns, uint64_t* unlogged_drained_ns) {
  logged_iseq_.store(logged_iseq);
  unlogged_drained_ns_.store(unlogged_drained_ns);
  drained_ns_.store(drained_ns);
  Wake();
}

Stats Worker::Snapshot() {
  std::lock_guard<std::mutex> lock(published_mutex_);
  return published_;
}

void Worker::Wake() {
  uint64_t one = 1;
  // Only fails when the counter is full, and then the thread is awake anyway.
  (void)!write(wake_fd_, &one, sizeof(one));
}

void Worker::Poll(bool for_packets) {
  if (polling_packets_ == for_packets) return;
  epoll_event event{};
  event.events = for_packets ? uint32_t{EPOLLIN} : 0;
  event.data.fd = tap_fd_;
  epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, tap_fd_, &event);
  polling_packets_ = for_packets;
}

void Worker::Run() {
  while (!stop_.load()) {
    epoll_event events[3];
    const uint64_t due_ns = DueNs(), now_ns = NowNs();
    const uint64_t wait_ns = due_ns > now_ns ? due_ns - now_ns : 0;
    const timespec timeout{static_cast<time_t>(wait_ns / kNsPerSecond), static_cast<long>(wait_ns % kNsPerSecond)};
    int ready = epoll_pwait2(epoll_fd_, events, 3, due_ns ? &timeout : nullptr, nullptr);
    for (int i = 0; i < ready; i++) {
      uint64_t wakes;
      if (events[i].data.fd == wake_fd_) {
        (void)!read(wake_fd_, &wakes, sizeof(wakes));
      } else if (events[i].events & EPOLLERR) {
        // Somebody deleted the device.  It would be reported for ever.
        epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, events[i].data.fd, nullptr);
        bool shadow = events[i].data.fd == port_.shadow_fd();
        if (shadow) port_.Lose();
        (shadow ? stats_.shadow_lost : stats_.device_lost) = true;
        notify_(shadow ? Notice::kShadowLost : Notice::kLost, 0);
      }
    }
    bool more = true;
    while (more && !stop_.load()) {
      // The watermark was stored first: once told to, we see it below.
      if (rearm_.exchange(false)) noticed_[0] = noticed_[1] = false;
      bool read_more = ReadBatch();
      bool shadows_more = port_.Turn();
      bool removed = ReleaseBatch();  // which may have made room to read on
      more = read_more || shadows_more || removed;
      // Packets come in the order in which they were sent: with one gone from the front, all before it are.
      if (popped_ns_ > drained_ns_reported_) ReportDrained(popped_ns_);
      Publish();
    }
    // Everything that had arrived was read, and all that may leave has left.
    if (polling_packets_) ReportDrained(std::max(released_ns_, popped_ns_));
  }
}

// Up to there everything has been given back or discarded.
void Worker::ReportDrained(uint64_t drained_ns) {
  uint64_t* report = drained_ns_.load();
  if (!report || drained_ns == drained_ns_reported_) return;
  __atomic_store_n(report, drained_ns, __ATOMIC_RELEASE);
  drained_ns_reported_ = drained_ns;
}

// When the comparator wants its turn, or somebody has to be told that packets
// wait; 0: not before something happens.
uint64_t Worker::DueNs() const {
  uint64_t due_ns = port_.due_ns();
  const Record* oldest = queue_.front();
  if (oldest && !noticed_[static_cast<int>(Notice::kHeld)]) {
    const bool gathers = WaitsForCommit();
    if (gathers || !port_.comparing()) {
      uint64_t tell_ns = gathers ? GatheredNs() : oldest->time_ns + kPatienceNs;
      due_ns = due_ns ? std::min(due_ns, tell_ns) : tell_ns;
    }
  }
  return due_ns;
}

// What is compared is reported by the comparator, if it has to wait for too long.
bool Worker::WaitsForCommit() const {
  return port_.comparing() ? port_.uncompared_ns() > watermark_ns_.load() : commit_packets_ != 0;
}

// When those that may share the commit are thought to have come.
uint64_t Worker::GatheredNs() const {
  const uint64_t oldest_ns = queue_.front()->time_ns;
  if (in_vain_ >= kVainTries) return oldest_ns;
  return std::min(newest_ns_ + quiet_ns_.load(), oldest_ns + most_ns_.load());
}

// Somebody is told of the oldest: was it worth the wait?
void Worker::CountGathered() {
  if (gathering_) {
    in_vain_ = commit_packets_ > 1 ? 0 : in_vain_ + 1;
    at_once_ = 0;
    gathering_ = false;
  } else if (in_vain_ >= kVainTries && ++at_once_ >= kTryAgain) {
    in_vain_--;
  }
}

// True if there may be more to read.
bool Worker::ReadBatch() {
  for (int i = 0; i < kBatch; i++) {
    Record* record = queue_.Reserve(kMaxFrameBytes);
    if (!record) {
      // Nothing is thrown away: what does not fit waits in the device's own
      // queue, and only when that overflows does the kernel drop (and count).
      if (polling_packets_) stats_.full_events++;
      Poll(false);
      return false;
    }
    Poll(true);
    hold_tag tag{};
    int error;
    if (ReadPacket(tap_fd_, HOLD_MAGIC, &tag, sizeof(tag), record, &error)) {
      if (tag.flags & HOLD_AUDIT) {
        port_.Audit(record);
        continue;
      }
      stats_.received_packets++;
      stats_.received_bytes += record->frame_bytes;
      record->flags = 0;
      if (tag.flags & HOLD_UNCOMPARED) record->flags |= kUncompared;
      if (tag.flags & HOLD_SAMPLED) record->flags |= kSampled;
      record->compared.flow = 0;
      queue_.Commit(record);
      if (!record->iseq) {
        commit_packets_++;
        newest_ns_ = record->time_ns;
      }
      if (!unexamined_) unexamined_ = record;
      // What may leave anyway leaves before what comes later, and may match at once.
      if (record->time_ns <= watermark_ns_.load()) {
        ReleaseDue(INT_MAX);
      } else {
        port_.Primary(record);
      }
    } else if (error) {
      return false;  // EAGAIN, or the device is no more: epoll tells
    } else if (tag.ethertype == htons(INPUT_ACK_ETHERTYPE)) {
      // It has done its work in the gate, and by waking us.
    } else {
      stats_.malformed_packets++;
    }
  }
  return true;
}

// True if there was anything to release or discard.
bool Worker::ReleaseBatch() {
  bool due = ReleaseDue(kBatch);
  bool logged = ReleaseLogged(discard_ns_.load());
  PopGone();
  return due || logged;
}

// Releases or discards up to so many of the oldest; the watermark is `least_ns` or
// more.  True if there were any.
bool Worker::ReleaseDue(int limit, uint64_t least_ns) {
  // In this order: who discards and then releases must not see both released.
  uint64_t watermark_ns = std::max(watermark_ns_.load(), least_ns);
  uint64_t discard_ns = discard_ns_.load();
  Release cause = watermark_ns == kEndOfTime ? Release::kEnd : Release::kCommit;
  int count = 0;
  for (; count < limit; count++) {
    PopGone();
    Record* record = queue_.front();
    if (!record) break;
    if (record->time_ns <= discard_ns) {
      stats_.discarded_packets++;
    } else if (record->time_ns > watermark_ns) {
      break;
    } else {
      GiveBack(record, cause);
    }
    Pop();
  }
  // All of them are gone, unless there were too many: then there will be another turn.
  // What is not here yet when everything may leave is not gone: it would be overtaken
  // by what is sent once the watermark is back.
  released_ns_ = std::max(watermark_ns == kEndOfTime ? 0 : watermark_ns, discard_ns);
  return count > 0;
}

// Releases, from wherever they are in the queue, packets whose inputs have been
// logged.  In the order they came, though some may need less than one before
// them: that order is each flow's too.  True if there were any.
bool Worker::ReleaseLogged(uint64_t discard_ns) {
  const uint64_t* memory = logged_iseq_.load();
  uint64_t logged_iseq = memory ? __atomic_load_n(memory, __ATOMIC_ACQUIRE) : 0;
  uint64_t drained_ns = 0;
  int count = 0;
  for (; unexamined_ && count < kBatch; unexamined_ = queue_.After(unexamined_)) {
    Record* record = unexamined_;
    if (!record->iseq) continue;
    if (!(record->flags & kGone)) {
      if (record->iseq > logged_iseq || record->time_ns <= discard_ns) break;
      Leave(record, Release::kLogged);
      if (record->flags & kSampled) {
        port_.AuditHeld(record);
      } else {
        port_.Forget(record);
      }
      count++;
    }
    drained_ns = record->time_ns;
  }
  uint64_t* report = unlogged_drained_ns_.load();
  if (report && drained_ns) __atomic_store_n(report, drained_ns, __ATOMIC_RELEASE);
  return count > 0;
}

// A packet is given back from wherever it is in the queue.
void Worker::Leave(Record* record, Release cause) {
  GiveBack(record, cause);
  record->flags |= kGone;
  if (!record->iseq) commit_packets_--;
  gone_packets_++;
  gone_bytes_ += record->frame_bytes;
}

void Worker::GiveBack(Record* record, Release cause) {
  if (WritePacket(tap_fd_, record)) {
    CountRelease(record, cause, NowNs());
  } else {
    stats_.failed_packets++;
  }
}

// Takes the oldest from the queue.
void Worker::Pop() {
  Record* record = queue_.front();
  if (record->flags & kGone) {
    gone_packets_--;
    gone_bytes_ -= record->frame_bytes;
  } else {
    if (!record->iseq) commit_packets_--;
    port_.Forget(record);
  }
  if (record == unexamined_) unexamined_ = queue_.After(record);
  popped_ns_ = record->time_ns;
  queue_.Pop();
}

// Those that have left already: afterwards the front waits.
void Worker::PopGone() {
  while (queue_.front() && (queue_.front()->flags & kGone)) Pop();
}

void Worker::CountRelease(const Record* record, Release cause, uint64_t now_ns) {
  uint64_t hold_ns = now_ns > record->time_ns ? now_ns - record->time_ns : 0;
  stats_.released_packets++;
  stats_.released_bytes += record->frame_bytes;
  stats_.hold_times[static_cast<int>(cause)].Add(hold_ns);
  if (cause == Release::kCommit && (record->flags & kUncompared)) {
    stats_.uncompared_packets++;
    stats_.uncompared_ns += hold_ns;
  }
  if (hold_ns > stats_.hold_ns_max) stats_.hold_ns_max = hold_ns;
}

void Worker::Publish() {
  Record* oldest = queue_.front();
  stats_.held_packets = queue_.packets() - gone_packets_;
  stats_.held_bytes = queue_.bytes() - gone_bytes_;
  stats_.oldest_ns = oldest ? oldest->time_ns : 0;
  if (port_.shadow_fd() >= 0) stats_.compare = port_.stats();
  {
    std::lock_guard<std::mutex> lock(published_mutex_);
    published_ = stats_;
  }
  // What is about to be released or discarded waits for nobody.
  if (!oldest || oldest->time_ns <= watermark_ns_.load() || oldest->time_ns <= discard_ns_.load()) {
    return;
  }
  bool over = stats_.held_packets > limits_.packets || stats_.held_bytes > limits_.bytes;
  bool for_commit = WaitsForCommit();
  uint64_t now_ns = NowNs();
  bool gathers = for_commit && now_ns < GatheredNs();
  if (gathers) gathering_ = true;
  bool waits = for_commit ? !gathers : !port_.comparing() && now_ns >= oldest->time_ns + kPatienceNs;
  for (Notice notice : {Notice::kHeld, Notice::kLimit}) {
    bool& noticed = noticed_[static_cast<int>(notice)];
    if (noticed || !(notice == Notice::kLimit ? over : waits)) continue;
    noticed = true;
    if (notice == Notice::kHeld && for_commit) CountGathered();
    notify_(notice, oldest->time_ns);
  }
}

}  // namespace taphold
