// Untag against packets of every length, good ones, damaged ones and noise.
// Each packet ends where its memory ends, so that reading on is seen.
#include <arpa/inet.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "held_packet.h"

using namespace taphold;

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                             \
    }                                                                           \
  } while (0)

namespace {

std::mt19937 random_numbers(92110);
uint32_t Below(uint32_t limit) { return random_numbers() % limit; }

std::vector<uint8_t> Noise(size_t bytes) {
  std::vector<uint8_t> noise(bytes);
  for (uint8_t& byte : noise) byte = static_cast<uint8_t>(random_numbers());
  return noise;
}

struct Untagged {
  bool good;
  VnetHeader vnet;
  std::unique_ptr<uint8_t[]> memory;
  Record* record() { return reinterpret_cast<Record*>(memory.get()); }
};

Untagged Run(const std::vector<uint8_t>& packet, VnetHeader vnet) {
  size_t rest_bytes = packet.size() - HOLD_TAG_BYTES;
  Untagged out{false, vnet, std::make_unique<uint8_t[]>(sizeof(Record) + rest_bytes)};
  std::unique_ptr<uint8_t[]> head(new uint8_t[HOLD_TAG_BYTES]);
  std::memcpy(head.get(), packet.data(), HOLD_TAG_BYTES);
  std::memcpy(out.record()->frame(), packet.data() + HOLD_TAG_BYTES, rest_bytes);
  out.good = Untag(HOLD_MAGIC, head.get(), HOLD_TAG_BYTES, rest_bytes, &out.vnet, out.record());
  return out;
}

std::vector<uint8_t> Tagged(const std::vector<uint8_t>& frame, uint64_t time_ns, uint16_t vlan_proto, uint16_t vlan_tci) {
  hold_tag tag{};
  tag.ethertype = htons(HOLD_ETHERTYPE);
  tag.time_ns = time_ns;
  tag.magic = HOLD_MAGIC;
  tag.frame_bytes = static_cast<uint32_t>(frame.size());
  std::vector<uint8_t> packet(sizeof(tag));
  std::memcpy(packet.data(), &tag, sizeof(tag));
  packet.insert(packet.end(), frame.begin(), frame.end());
  if (vlan_proto) {
    uint16_t inserted[2] = {htons(vlan_proto), htons(vlan_tci)};
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(inserted);
    packet.insert(packet.begin() + 12, bytes, bytes + sizeof(inserted));
  }
  return packet;
}

}  // namespace

int main() {
  for (int round = 0; round < 20000; round++) {
    const uint16_t protos[] = {0, 0x8100, 0x88a8};
    uint16_t proto = protos[Below(3)], tci = static_cast<uint16_t>(Below(0x10000));
    auto frame = Noise(Below(20) == 0 ? Below(14) : 14 + Below(300));
    uint64_t time_ns = random_numbers();
    VnetHeader vnet{};
    vnet.flags = static_cast<uint8_t>(Below(2));
    vnet.csum_start = static_cast<uint16_t>(Below(120));
    vnet.hdr_len = static_cast<uint16_t>(Below(120));
    auto packet = Tagged(frame, time_ns, proto, tci);

    Untagged out = Run(packet, vnet);
    bool checksum_within_tag = vnet.flags && vnet.csum_start < HOLD_TAG_BYTES;
    CHECK(out.good == (frame.size() >= 14 && !checksum_within_tag));
    if (out.good) {
      Record* record = out.record();
      VnetHeader kept;
      std::memcpy(&kept, record->vnet, sizeof(kept));
      CHECK(record->time_ns == time_ns);
      CHECK(record->frame_bytes == frame.size());
      CHECK(std::memcmp(record->frame(), frame.data(), frame.size()) == 0);
      CHECK(record->vlan_proto == htons(proto));
      CHECK(!proto || record->vlan_tci == htons(tci));
      CHECK(kept.csum_start == (vnet.flags ? vnet.csum_start - HOLD_TAG_BYTES : vnet.csum_start));
      CHECK(kept.hdr_len == (vnet.hdr_len < HOLD_TAG_BYTES ? 0 : vnet.hdr_len - HOLD_TAG_BYTES));
    }

    // Cut off or damaged anywhere: never more than was there, and never from nowhere.
    if (packet.size() > HOLD_TAG_BYTES) packet.resize(HOLD_TAG_BYTES + Below(static_cast<uint32_t>(packet.size() - HOLD_TAG_BYTES)));
    CHECK(!Run(packet, VnetHeader{}).good);
    packet = Tagged(frame, time_ns, proto, tci);
    packet[Below(static_cast<uint32_t>(packet.size()))] ^= static_cast<uint8_t>(1 + Below(255));
    Untagged damaged = Run(packet, vnet);
    if (damaged.good) CHECK(damaged.record()->frame_bytes <= packet.size() - HOLD_TAG_BYTES);

    CHECK(!Run(Noise(HOLD_TAG_BYTES + Below(200)), vnet).good);
  }
  std::puts("ok");
}
