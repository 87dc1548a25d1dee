// The log thread under sanitizers: input, commits, statistics, new beginnings,
// replays and the end, all at once.  A pair of connected sockets stands in for
// the tap, which keeps the boundaries of packets as a tap does.
#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "check.h"
#include "held_packet.h"
#include "log_thread.h"

using namespace taphold;

namespace {

uint64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

struct Sent {
  VnetHeader vnet;
  log_tag tag;
  uint8_t frame[64];
} __attribute__((packed));

struct Ack {
  VnetHeader vnet;
  uint8_t ethernet[ETH_HLEN];
  input_ack ack;
} __attribute__((packed));

void Round(unsigned seed) {
  int ends[2];
  CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  std::atomic<int> notices{0}, replays{0};
  std::atomic<bool> done{false};
  std::atomic<uint64_t> sent{0}, acked{0}, written{0};
  {
    InputLog log(ends[1], LogLimits{500, 20'000, 5'000'000, 1'000'000, 16}, [&](LogNotice notice, uint64_t) {
      notices++;
      if (notice == LogNotice::kReplayed) replays++;
    });
    CHECK(log.Start(256 * 1024) == 0);
    log.Reset(1, 1);

    std::thread primary([&] {
      std::mt19937 random(seed * 7 + 1);
      while (!done) {
        Sent packet{};
        packet.tag.hold.ethertype = htons(HOLD_ETHERTYPE);
        packet.tag.hold.magic = LOG_MAGIC;
        packet.tag.hold.frame_bytes = sizeof(packet.frame);
        packet.tag.hold.time_ns = NowNs();
        packet.tag.iseq24 = static_cast<uint32_t>(sent + 1 + (random() % 50 == 0 ? random() % 4 : 0)) & 0xffffff;
        packet.tag.segments = static_cast<uint16_t>(1 + (random() % 10 == 0));
        packet.tag.arrived = 1;
        packet.tag.flags = random() % 4 ? 0 : random() % 4;
        for (uint8_t& byte : packet.frame) byte = static_cast<uint8_t>(random());
        packet.frame[12] = 0x08;  // never by chance the type of an acknowledgement
        if (write(ends[0], &packet, sizeof(packet)) == sizeof(packet)) sent++;
      }
    });
    std::thread world([&] {
      uint64_t epoch = 0;
      while (!done) {
        Ack answer;
        ssize_t bytes = read(ends[0], &answer, sizeof(answer));
        if (bytes < 0) continue;
        uint16_t type;
        std::memcpy(&type, answer.ethernet + 12, sizeof(type));
        if (bytes < static_cast<ssize_t>(sizeof(answer)) || type != htons(INPUT_ACK_ETHERTYPE)) {
          written++;
          continue;
        }
        input_ack ack;
        std::memcpy(&ack, &answer.ack, sizeof(ack));
        CHECK(ack.magic == INPUT_ACK_MAGIC && ack.epoch >= epoch);
        epoch = ack.epoch;
        acked++;
      }
    });
    std::thread reader([&] {
      while (!done) {
        LogStats stats = log.Snapshot();
        CHECK((stats.oldest_ns == 0) == (stats.logged_packets == 0));
        CHECK(stats.malformed_packets == 0 && !stats.device_lost);
      }
    });
    std::mt19937 random(seed);
    uint64_t limit_ns = NowNs() + 20'000'000'000, epoch = 1;
    while (sent < 3000 || acked < 100 || notices < 5 || replays < 3 || written < 50) {
      CHECK(NowNs() < limit_ns);
      switch (random() % 8) {
        case 0: log.Reset(++epoch, sent + 1); break;
        case 1: log.Replay(open("/dev/null", O_RDONLY | O_CLOEXEC), 0, {20'000'000, 1'000'000, 2'000'000, 3}); break;
        case 2: log.Deliver(open("/dev/null", O_RDONLY | O_CLOEXEC), 0, {20'000'000, 1'000'000, 2'000'000, 3}); break;
        case 3: log.Suspend(); break;
        default: log.Forget(sent - std::min<uint64_t>(sent, random() % 64), random() % 8); break;
      }
      usleep(random() % 2000);
    }
    // Sometimes the end comes in the middle of it all.
    if (seed % 2) log.Stop();
    done = true;
    primary.join();
    world.join();
    reader.join();
  }
  close(ends[0]);
}

}  // namespace

int main() {
  for (unsigned seed = 0; seed < 6; seed++) Round(seed);
  std::puts("ok");
}
