#include "log_thread.h"

#include <arpa/inet.h>
#include <linux/bpf.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "log_frame.h"
#include "held_packet.h"

namespace taphold {
namespace {

// Packets between two acknowledgements.
constexpr int kBatch = 64;
// An acknowledgement may get lost; the last one of several is sent once more.
constexpr uint64_t kRepeatNs = 10'000'000;
constexpr uint64_t kNsPerMs = 1'000'000;
constexpr size_t kMinFrameBytes = 60;

static_assert(sizeof(log_tag) == LOG_TAG_BYTES, "the shadow programs write tags of this size");

uint64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

InputLog::InputLog(int tap_fd, LogLimits limits, Notify notify)
    : tap_fd_(tap_fd), limits_(limits), notify_(std::move(notify)) {}

InputLog::~InputLog() {
  Stop();
  for (int fd : {epoll_fd_, wake_fd_, flows_fd_}) {
    if (fd >= 0) close(fd);
  }
  for (const Command& command : commands_) {
    if (command.flows_fd >= 0) close(command.flows_fd);
  }
  close(tap_fd_);
}

int InputLog::Start(size_t ring_bytes) {
  if (int error = queue_.Allocate(ring_bytes)) return error;
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (epoll_fd_ < 0 || wake_fd_ < 0) return errno;
  for (int fd : {tap_fd_, wake_fd_}) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) < 0) return errno;
  }
  auto run = [](void* self) -> void* {
    static_cast<InputLog*>(self)->Run();
    return nullptr;
  };
  if (int error = pthread_create(&thread_, nullptr, run, this)) return error;
  running_ = true;
  pthread_setname_np(thread_, "input-log");
  return 0;
}

void InputLog::Stop() {
  if (!running_) return;
  stop_.store(true);
  Wake();
  pthread_join(thread_, nullptr);
  running_ = false;
}

// ---- called from outside

void InputLog::Reset(uint64_t epoch, uint64_t next_iseq) {
  Command command{};
  command.kind = Command::Kind::kReset;
  command.epoch = epoch;
  command.iseq = next_iseq;
  command.since_ns = NowNs();
  command.flows_fd = -1;
  Order(command);
}

void InputLog::Forget(uint64_t iseq, uint64_t margin) {
  Command command{};
  command.kind = Command::Kind::kForget;
  command.iseq = iseq;
  command.margin = margin;
  command.flows_fd = -1;
  Order(command);
}

void InputLog::Deliver(int flows_fd, uint32_t generation, ReplayLimits limits) {
  Command command{};
  command.kind = Command::Kind::kDeliver;
  command.flows_fd = flows_fd;
  command.generation = generation;
  command.limits = limits;
  Order(command);
}

void InputLog::Suspend() {
  Command command{};
  command.kind = Command::Kind::kSuspend;
  command.flows_fd = -1;
  Order(command);
}

void InputLog::Replay(int flows_fd, uint32_t generation, ReplayLimits limits) {
  Command command{};
  command.kind = Command::Kind::kReplay;
  command.flows_fd = flows_fd;
  command.generation = generation;
  command.limits = limits;
  Order(command);
}

void InputLog::Order(const Command& command) {
  {
    std::lock_guard<std::mutex> lock(commands_mutex_);
    commands_.push_back(command);
  }
  Wake();
}

LogStats InputLog::Snapshot() {
  std::lock_guard<std::mutex> lock(published_mutex_);
  return published_;
}

void InputLog::Wake() {
  uint64_t one = 1;
  // Only fails when the counter is full, and then the thread is awake anyway.
  (void)!write(wake_fd_, &one, sizeof(one));
}

// ---- the thread

void InputLog::Run() {
  while (!stop_.load()) {
    epoll_event events[2];
    int ready = epoll_wait(epoll_fd_, events, 2, TimeoutMs());
    for (int i = 0; i < ready; i++) {
      uint64_t wakes;
      if (events[i].data.fd == wake_fd_) {
        (void)!read(wake_fd_, &wakes, sizeof(wakes));
      } else if (events[i].events & EPOLLERR) {
        // Somebody deleted the device.  It would be reported for ever.
        epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, tap_fd_, nullptr);
        stats_.device_lost = true;
        notify_(LogNotice::kLost, 0);
      }
    }
    bool more = true;
    while (more && !stop_.load()) {
      now_ns_ = NowNs();
      Execute();
      more = ReadBatch();
      if (Delivering()) DeliverNew();
      // Its end makes room to read on.
      if (phase_ == Phase::kReplaying && StepReplay()) more = true;
      Acknowledge();
      NoticeTrouble();
      Publish();
    }
  }
}

// Until there is something to do even if nothing happens.
int InputLog::TimeoutMs() const {
  uint64_t due_ns = UINT64_MAX;
  if (phase_ == Phase::kReplaying) due_ns = now_ns_ + kNsPerMs;
  if (phase_ == Phase::kLogging) {
    const Record* oldest = queue_.front();
    if (repeat_ns_) due_ns = std::min(due_ns, repeat_ns_);
    if (tracker_.hole() && !gap_noticed_) {
      due_ns = std::min(due_ns, tracker_.hole_since_ns() + limits_.gap_ns);
    }
    if (Delivering() && !replayer_->quiet()) due_ns = std::min(due_ns, now_ns_ + kNsPerMs);
    if (oldest && !limit_noticed_) due_ns = std::min(due_ns, oldest->time_ns + limits_.age_ns);
  }
  if (due_ns == UINT64_MAX) return -1;
  uint64_t now_ns = NowNs();
  if (due_ns <= now_ns) return 0;
  return static_cast<int>(std::min<uint64_t>((due_ns - now_ns) / kNsPerMs + 1, 60'000));
}

void InputLog::Poll(bool for_packets) {
  if (polling_packets_ == for_packets) return;
  epoll_event event{};
  event.events = for_packets ? uint32_t{EPOLLIN} : 0;
  event.data.fd = tap_fd_;
  epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, tap_fd_, &event);
  polling_packets_ = for_packets;
}

void InputLog::Execute() {
  std::vector<Command> commands;
  {
    std::lock_guard<std::mutex> lock(commands_mutex_);
    commands.swap(commands_);
  }
  for (const Command& command : commands) Execute(command);
}

void InputLog::Execute(const Command& command) {
  if (command.kind != Command::Kind::kSuspend) gap_noticed_ = limit_noticed_ = false;
  switch (command.kind) {
    case Command::Kind::kReset:
      Empty();
      tracker_.Reset(command.iseq);
      stats_.epoch = command.epoch;
      since_ns_ = command.since_ns;
      committed_ = command.iseq - 1;
      phase_ = Phase::kLogging;
      SendAck();
      break;
    case Command::Kind::kForget:
      if (phase_ != Phase::kLogging) return;
      EndDelivery();  // of what may be gone below; the guest's state is another one
      if (command.iseq > command.margin) {
        uint64_t settled = command.iseq - command.margin;
        while (Record* oldest = queue_.front()) {
          if (oldest->iseq > settled) break;
          queue_.Pop();
          stats_.forgotten_packets++;
        }
        tracker_.SkipTo(settled + 1, now_ns_);
      }
      committed_ = std::max(committed_, command.iseq);
      break;
    case Command::Kind::kDeliver:
      UseFlows(command);
      if (phase_ == Phase::kLogging) BeginDelivery(command);
      break;
    case Command::Kind::kSuspend:
      suspended_ = true;
      break;
    case Command::Kind::kReplay:
      UseFlows(command);
      BeginReplay(command);
      break;
  }
}

void InputLog::UseFlows(const Command& command) {
  if (flows_fd_ >= 0) close(flows_fd_);
  flows_fd_ = command.flows_fd;
  generation_ = command.generation;
}

void InputLog::Empty() {
  EndDelivery();
  while (queue_.front()) queue_.Pop();
}

// ---- logging

// True if there may be more to read.
bool InputLog::ReadBatch() {
  for (int i = 0; i < kBatch; i++) {
    Record* record = queue_.Reserve(kMaxFrameBytes);
    if (!record) {
      // What does not fit waits in the device's own queue.  When that overflows
      // the kernel drops, and the log has a gap.
      if (polling_packets_) stats_.full_events++;
      Poll(false);
      return false;
    }
    Poll(true);
    log_tag tag;
    int error;
    if (ReadPacket(tap_fd_, LOG_MAGIC, &tag, sizeof(tag), record, &error)) {
      record->flags = static_cast<uint16_t>(tag.flags);
      if (Keep(record, tag)) {
        queue_.Commit(record);
        if (phase_ == Phase::kLogging && replayer_) undelivered_.push_back(record);
      }
    } else if (error) {
      return false;  // EAGAIN, or the device is no more: epoll tells
    } else {
      stats_.malformed_packets++;
    }
  }
  return true;
}

bool InputLog::Keep(Record* record, const log_tag& tag) {
  bool live = tag.flags & LOG_LIVE;
  // What waited in the device when the log was emptied belongs to the past.
  if (phase_ == Phase::kLogging && !live && record->time_ns >= since_ns_) return Log(record, tag);
  if (phase_ == Phase::kReplaying && live) return replayer_->Append(record);
  if (phase_ == Phase::kForwarding && live) {
    Inject(record);
  } else {
    stats_.unexpected_packets++;
  }
  return false;
}

bool InputLog::Log(Record* record, const log_tag& tag) {
  record->iseq = tracker_.Expand(tag.iseq24);
  bool whole = record->frame_bytes == tag.hold.frame_bytes;
  uint32_t arrived = whole && tag.arrived ? tag.arrived : 1;
  Piece piece{};
  if (arrived < tag.segments) piece = PieceOf(record, ParseFrame(record));
  switch (tracker_.Add(record->iseq, tag.segments, arrived, piece, now_ns_)) {
    case Tracker::Verdict::kDuplicate:
      stats_.duplicate_packets++;
      return false;
    case Tracker::Verdict::kBeyond:
      stats_.beyond_packets++;
      return false;
    case Tracker::Verdict::kNew:
      break;
  }
  stats_.received_packets++;
  stats_.received_bytes += record->frame_bytes;
  return true;
}

void InputLog::Acknowledge() {
  if (phase_ != Phase::kLogging) return;
  if (tracker_.next() - 1 != told_iseq_) {
    SendAck();
    repeat_ns_ = now_ns_ + kRepeatNs;
  } else if (repeat_ns_ && now_ns_ >= repeat_ns_) {
    SendAck();
    repeat_ns_ = 0;
  }
}

void InputLog::SendAck() {
  uint8_t bytes[sizeof(VnetHeader) + kMinFrameBytes] = {};
  uint8_t* frame = bytes + sizeof(VnetHeader);
  uint16_t type = htons(INPUT_ACK_ETHERTYPE);
  input_ack ack{};
  ack.magic = INPUT_ACK_MAGIC;
  ack.iseq = told_iseq_ = tracker_.next() - 1;
  ack.epoch = stats_.epoch;
  std::memset(frame, 0xff, ETH_ALEN);
  std::memcpy(frame + 2 * ETH_ALEN, &type, sizeof(type));
  std::memcpy(frame + ETH_HLEN, &ack, sizeof(ack));
  if (write(tap_fd_, bytes, sizeof(bytes)) < 0) stats_.failed_packets++;
  stats_.acks++;
}

void InputLog::NoticeTrouble() {
  if (phase_ != Phase::kLogging) return;
  if (tracker_.hole() && !gap_noticed_ &&
      (now_ns_ >= tracker_.hole_since_ns() + limits_.gap_ns ||
       tracker_.newest() - tracker_.next() >= limits_.gap_packets)) {
    gap_noticed_ = true;
    stats_.gaps++;
    notify_(LogNotice::kGap, tracker_.next());
  }
  const Record* oldest = queue_.front();
  if (oldest && !limit_noticed_ &&
      (queue_.packets() > limits_.packets || queue_.bytes() > limits_.bytes ||
       now_ns_ >= oldest->time_ns + limits_.age_ns)) {
    limit_noticed_ = true;
    notify_(LogNotice::kLimit, oldest->time_ns);
  }
}

void InputLog::Publish() {
  const Record* oldest = queue_.front();
  stats_.logged_packets = queue_.packets();
  stats_.logged_bytes = queue_.bytes();
  stats_.oldest_ns = oldest ? oldest->time_ns : 0;
  stats_.acked_iseq = tracker_.next() - 1;
  stats_.newest_iseq = tracker_.newest();
  std::lock_guard<std::mutex> lock(published_mutex_);
  published_ = stats_;
}

// ---- delivery to an active secondary

void InputLog::BeginDelivery(const Command& command) {
  EndDelivery();
  replayer_ = std::make_unique<Replayer>(static_cast<ReplayTarget*>(this), command.limits);
  replayer_->Begin(Contiguous(), committed_, true, now_ns_);
  for (Record* record = queue_.front(); record; record = queue_.After(record)) {
    if (record->iseq >= tracker_.next()) undelivered_.push_back(record);
  }
}

void InputLog::EndDelivery() {
  replayer_.reset();
  undelivered_.clear();
  suspended_ = false;
}

// In order, and nothing behind a gap: the guest must not know more than the
// primary was told that we have.
void InputLog::DeliverNew() {
  auto end = std::stable_partition(undelivered_.begin(), undelivered_.end(),
                                   [this](const Record* record) { return record->iseq < tracker_.next(); });
  std::stable_sort(undelivered_.begin(), end,
                   [](const Record* a, const Record* b) { return a->iseq < b->iseq; });
  for (auto at = undelivered_.begin(); at != end; ++at) replayer_->Extend(*at, now_ns_);
  undelivered_.erase(undelivered_.begin(), end);
  replayer_->Step(now_ns_);
}

// ---- replay

void InputLog::BeginReplay(const Command& command) {
  suspended_ = false;
  if (phase_ == Phase::kLogging && replayer_) {
    // What the guest has got already it has got; the rest follows.
    DeliverNew();
    undelivered_.clear();
    replayer_->Finish(command.limits, now_ns_);
  } else {
    replayer_ = std::make_unique<Replayer>(static_cast<ReplayTarget*>(this), command.limits);
    replayer_->Begin(Contiguous(), committed_, false, now_ns_);
  }
  phase_ = Phase::kReplaying;
}

// What came after a gap was never acknowledged, so nobody relies on it, and
// clients send it again.
std::vector<Record*> InputLog::Contiguous() const {
  std::vector<Record*> log;
  if (phase_ != Phase::kLogging) return log;
  for (Record* record = queue_.front(); record; record = queue_.After(record)) {
    if (record->iseq < tracker_.next()) log.push_back(record);
  }
  return log;
}

// True if the replay is over.
bool InputLog::StepReplay() {
  bool over = replayer_->Step(now_ns_);
  stats_.replay = replayer_->stats();
  if (!over) return false;
  Empty();
  phase_ = Phase::kForwarding;
  Publish();
  notify_(LogNotice::kReplayed, stats_.replay.logged_frames);
  return true;
}

void InputLog::Inject(Record* record) {
  if (phase_ == Phase::kLogging) stats_.delivered_packets++;
  if (!WritePacket(tap_fd_, record)) stats_.failed_packets++;
}

bool InputLog::Look(const shadow_key& key, shadow_flow* flow) {
  bpf_attr attr{};
  attr.map_fd = static_cast<uint32_t>(flows_fd_);
  attr.key = reinterpret_cast<uint64_t>(&key);
  attr.value = reinterpret_cast<uint64_t>(flow);
  attr.flags = BPF_F_LOCK;
  return syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, &attr, sizeof(attr)) == 0 && flow->generation == generation_;
}

}  // namespace taphold
