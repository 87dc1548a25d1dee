// The hold thread under a race detector: packets, shadow outputs, watermarks,
// commits, discards, statistics and the end, all at once.  Pairs of connected
// sockets stand in for the taps, which keep the boundaries of packets as taps do.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "held_packet.h"
#include "worker.h"

using namespace taphold;

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                             \
    }                                                                           \
  } while (0)

namespace {

uint64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

struct Sent {
  VnetHeader vnet;
  hold_tag tag;
  uint8_t frame[64];
} __attribute__((packed));

struct Heard {
  VnetHeader vnet;
  shadow_tag tag;
  uint8_t frame[64];
} __attribute__((packed));

void Round(unsigned seed) {
  int ends[2], shadows[2];
  CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, shadows) == 0);
  std::atomic<uint32_t> epoch{1};
  std::atomic<uint64_t> matched{0};
  std::atomic<int> notices{0};
  std::atomic<bool> done{false};
  std::atomic<uint64_t> sent{0}, received{0};
  // Of those that wait for a commit, and of those that need an input.
  uint64_t last_number[2] = {};
  uint64_t logged_iseq = 0, drained_ns = 0, unlogged_drained_ns = 0;
  {
    Worker worker(ends[1], Limits{10, 1000}, [&](Notice, uint64_t oldest_ns) {
      CHECK(oldest_ns != 0);
      notices++;
    }, shadows[1], [&](std::vector<CompareEvent> events) { CHECK(!events.empty()); });
    worker.Share(&logged_iseq, &drained_ns, &unlogged_drained_ns);
    CHECK(worker.Start(256 * 1024, 16, 256 * 1024) == 0);
    const CompareLimits compare_limits{1'000'000, 5'000'000, 1'000'000, 100'000, 100};
    worker.SetCompare(&compare_limits);

    std::thread guest([&] {
      while (!done) {
        Sent packet{};
        packet.tag.ethertype = htons(HOLD_ETHERTYPE);
        packet.tag.magic = HOLD_MAGIC;
        packet.tag.frame_bytes = sizeof(packet.frame);
        packet.tag.time_ns = NowNs();
        uint64_t number = sent + 1;
        packet.tag.needs_iseq = number % 2 ? number : 0;
        packet.tag.flags = number % 4 == 1 ? HOLD_SAMPLED : 0;
        std::memcpy(packet.frame + 14, &number, sizeof(number));
        if (write(ends[0], &packet, sizeof(packet)) == sizeof(packet)) sent++;
      }
    });
    // The secondary says the same, a little later, or some of it.
    std::thread secondary([&] {
      uint64_t number = 0;
      while (!done) {
        if (number + 20 < sent) number = sent;
        if (number >= sent) continue;
        number++;
        Heard packet{};
        packet.tag.hold.ethertype = htons(HOLD_ETHERTYPE);
        packet.tag.hold.magic = SHADOW_MAGIC;
        packet.tag.hold.frame_bytes = sizeof(packet.frame);
        packet.tag.epoch = epoch;
        std::memcpy(packet.frame + 14, &number, sizeof(number));
        (void)!write(shadows[0], &packet, sizeof(packet));
      }
    });
    std::thread world([&] {
      while (!done) {
        uint8_t packet[256];
        ssize_t bytes = read(ends[0], packet, sizeof(packet));
        if (bytes < 0) continue;
        CHECK(bytes == static_cast<ssize_t>(sizeof(VnetHeader) + sizeof(Sent::frame)));
        uint64_t number;
        std::memcpy(&number, packet + sizeof(VnetHeader) + 14, sizeof(number));
        // Some are discarded, none overtakes one of its kind.
        CHECK(number > last_number[number % 2]);
        last_number[number % 2] = number;
        received++;
      }
    });
    std::thread reader([&] {
      while (!done) {
        Stats stats = worker.Snapshot();
        CHECK(stats.released_packets + stats.discarded_packets + stats.failed_packets + stats.held_packets ==
              stats.received_packets);
        CHECK((stats.oldest_ns == 0) == (stats.held_packets == 0));
        CHECK(stats.malformed_packets == 0 && stats.compare.shadow_malformed == 0);
        matched = stats.compare.matched_packets;
      }
    });
    std::mt19937 random(seed);
    uint64_t limit_ns = NowNs() + 20'000'000'000;
    while (sent < 2000 || received < 500 || notices < 10 || matched < 20) {
      CHECK(NowNs() < limit_ns);
      __atomic_store_n(&logged_iseq, sent - sent % 7, __ATOMIC_RELEASE);
      switch (random() % 16) {
        case 0: worker.Discard(); break;
        case 1: worker.SetWatermark(~uint64_t{0}); break;
        case 2: worker.SetWatermark(0); break;
        case 3: worker.SuspendCompare(); break;
        case 4: worker.SetCompare(random() % 4 ? &compare_limits : nullptr); break;
        case 5: case 6: case 7: case 8: case 9: {
          uint32_t next = epoch + 1;
          worker.SuspendCompare();
          worker.Commit(NowNs(), next);
          epoch = next;
          break;
        }
        case 10: case 11: worker.SetWatermark(NowNs() - random() % 1'000'000); break;
        default: break;
      }
      usleep(random() % 500);
    }
    // Sometimes the end comes in the middle of it all.
    if (seed % 2) worker.Stop();
    done = true;
    guest.join();
    secondary.join();
    world.join();
    reader.join();
  }
  close(ends[0]);
  close(shadows[0]);
}

}  // namespace

int main() {
  for (unsigned seed = 0; seed < 8; seed++) Round(seed);
  std::puts("ok");
}
