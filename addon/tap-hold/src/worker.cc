#include "worker.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "wire.h"

namespace taphold {
namespace {

constexpr size_t kVlanBytes = 4;
constexpr size_t kMacBytes = 12;  // both addresses: a VLAN tag goes behind them
// The largest packet the kernel builds, its Ethernet header and VLAN tags.
constexpr size_t kMaxFrameBytes = 64 * 1024 + ETH_HLEN + 2 * kVlanBytes;
// Reading and releasing take turns, so that neither starves the other.
constexpr int kBatch = 64;

// What the kernel calls virtio_net_hdr; its header is not valid C++.
struct VnetHeader {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t hdr_len;
  uint16_t gso_size;
  uint16_t csum_start;
  uint16_t csum_offset;
};
constexpr uint8_t kNeedsChecksum = 1;

static_assert(sizeof(VnetHeader) == 10, "the kernel's default header size of a tap");
static_assert(sizeof(hold_tag) == HOLD_TAG_BYTES, "the gate writes tags of this size");
static_assert(sizeof(VnetHeader) <= sizeof(Record::vnet), "a record keeps the header");

uint64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

// Moves the tag out of a packet as read from the hold tap.  `head` holds the
// first HOLD_TAG_BYTES of it and the record's frame the remaining `rest_bytes`.
// False if the packet is not one of the gate's.
bool Untag(const uint8_t* head, size_t rest_bytes, VnetHeader* vnet, Record* record) {
  uint8_t bytes[HOLD_TAG_BYTES];
  std::memcpy(bytes, head, sizeof(bytes));
  record->vlan_proto = 0;

  uint16_t type;
  std::memcpy(&type, head + kMacBytes, sizeof(type));
  if (type == htons(ETH_P_8021Q) || type == htons(ETH_P_8021AD)) {
    // The kernel put the frame's VLAN tag into ours: the last bytes of ours
    // are the first of the rest.
    if (rest_bytes < kVlanBytes) return false;
    record->vlan_proto = type;
    std::memcpy(&record->vlan_tci, head + kMacBytes + 2, sizeof(record->vlan_tci));
    std::memcpy(bytes + kMacBytes, head + kMacBytes + kVlanBytes,
                HOLD_TAG_BYTES - kMacBytes - kVlanBytes);
    std::memcpy(bytes + HOLD_TAG_BYTES - kVlanBytes, record->frame(), kVlanBytes);
    rest_bytes -= kVlanBytes;
    std::memmove(record->frame(), record->frame() + kVlanBytes, rest_bytes);
  }

  hold_tag tag;
  std::memcpy(&tag, bytes, sizeof(tag));
  if (tag.ethertype != htons(HOLD_ETHERTYPE) || tag.magic != HOLD_MAGIC ||
      tag.frame_bytes != rest_bytes || rest_bytes < ETH_HLEN) {
    return false;
  }
  // Offsets were counted from the tag.  A VLAN tag counts before and after.
  if (vnet->flags & kNeedsChecksum) {
    if (vnet->csum_start < HOLD_TAG_BYTES) return false;
    vnet->csum_start = static_cast<uint16_t>(vnet->csum_start - HOLD_TAG_BYTES);
  }
  vnet->hdr_len =
      vnet->hdr_len < HOLD_TAG_BYTES ? 0 : static_cast<uint16_t>(vnet->hdr_len - HOLD_TAG_BYTES);
  record->time_ns = tag.time_ns;
  record->frame_bytes = static_cast<uint32_t>(rest_bytes);
  std::memcpy(record->vnet, vnet, sizeof(*vnet));
  return true;
}

// Gives a packet back to the kernel.  False if the kernel refuses it.
bool WriteBack(int tap_fd, Record* record) {
  uint16_t vlan[2] = {record->vlan_proto, record->vlan_tci};
  uint8_t* frame = record->frame();
  iovec parts[4];
  int count = 0;
  parts[count++] = {record->vnet, sizeof(VnetHeader)};
  if (record->vlan_proto) {
    parts[count++] = {frame, kMacBytes};
    parts[count++] = {vlan, sizeof(vlan)};
    parts[count++] = {frame + kMacBytes, record->frame_bytes - kMacBytes};
  } else {
    parts[count++] = {frame, record->frame_bytes};
  }
  for (;;) {
    if (writev(tap_fd, parts, count) >= 0) return true;
    if (errno != EINTR) return false;
  }
}

}  // namespace

Worker::Worker(int tap_fd, Limits limits, Notify notify)
    : tap_fd_(tap_fd), limits_(limits), notify_(std::move(notify)) {}

Worker::~Worker() {
  Stop();
  if (epoll_fd_ >= 0) close(epoll_fd_);
  if (wake_fd_ >= 0) close(wake_fd_);
  close(tap_fd_);
}

int Worker::Start(size_t ring_bytes) {
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
  thread_ = std::thread([this] { Run(); });
  pthread_setname_np(thread_.native_handle(), "tap-hold");
  return 0;
}

void Worker::Stop() {
  if (!thread_.joinable()) return;
  stop_.store(true);
  Wake();
  thread_.join();
}

void Worker::SetWatermark(uint64_t time_ns) {
  watermark_ns_.store(time_ns);
  rearm_.store(true);
  Wake();
}

void Worker::Discard() {
  discard_.store(true);
  rearm_.store(true);
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
    epoll_event events[2];
    int ready = epoll_wait(epoll_fd_, events, 2, -1);
    for (int i = 0; i < ready; i++) {
      uint64_t wakes;
      if (events[i].data.fd == wake_fd_) (void)!read(wake_fd_, &wakes, sizeof(wakes));
    }
    if (discard_.exchange(false)) DiscardAll();
    if (rearm_.exchange(false)) noticed_[0] = noticed_[1] = false;
    bool more = true;
    while (more && !stop_.load()) {
      bool read_more = ReadBatch();
      bool release_more = ReleaseBatch();
      more = read_more || release_more;
      Publish();
    }
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
    VnetHeader vnet{};
    uint8_t head[HOLD_TAG_BYTES];
    iovec parts[3] = {
        {&vnet, sizeof(vnet)}, {head, sizeof(head)}, {record->frame(), kMaxFrameBytes}};
    ssize_t bytes = readv(tap_fd_, parts, 3);
    if (bytes < 0) {
      if (errno == EINTR) continue;
      return false;  // EAGAIN, or the device went down: epoll says when it is back
    }
    size_t overhead = sizeof(vnet) + sizeof(head);
    if (static_cast<size_t>(bytes) < overhead ||
        !Untag(head, static_cast<size_t>(bytes) - overhead, &vnet, record)) {
      stats_.malformed_packets++;
      continue;
    }
    stats_.received_packets++;
    stats_.received_bytes += record->frame_bytes;
    queue_.Commit(record);
  }
  return true;
}

// True if there is more to release.
bool Worker::ReleaseBatch() {
  uint64_t watermark_ns = watermark_ns_.load();
  uint64_t now_ns = 0;
  for (int i = 0; i < kBatch; i++) {
    Record* record = queue_.front();
    if (!record || record->time_ns > watermark_ns) return false;
    if (WriteBack(tap_fd_, record)) {
      stats_.released_packets++;
      stats_.released_bytes += record->frame_bytes;
    } else {
      stats_.failed_packets++;
    }
    if (!now_ns) now_ns = NowNs();
    uint64_t hold_ns = now_ns > record->time_ns ? now_ns - record->time_ns : 0;
    stats_.hold_ns_total += hold_ns;
    if (hold_ns > stats_.hold_ns_max) stats_.hold_ns_max = hold_ns;
    queue_.Pop();
  }
  return queue_.front() != nullptr;
}

void Worker::DiscardAll() {
  while (queue_.front()) {
    stats_.discarded_packets++;
    queue_.Pop();
  }
}

void Worker::Publish() {
  Record* oldest = queue_.front();
  stats_.held_packets = queue_.packets();
  stats_.held_bytes = queue_.bytes();
  stats_.oldest_ns = oldest ? oldest->time_ns : 0;
  {
    std::lock_guard<std::mutex> lock(published_mutex_);
    published_ = stats_;
  }
  if (!oldest) return;
  bool over = stats_.held_packets > limits_.packets || stats_.held_bytes > limits_.bytes;
  for (Notice notice : {Notice::kHeld, Notice::kLimit}) {
    bool& noticed = noticed_[static_cast<int>(notice)];
    if (noticed || (notice == Notice::kLimit && !over)) continue;
    noticed = true;
    notify_(notice, oldest->time_ns);
  }
}

}  // namespace taphold
