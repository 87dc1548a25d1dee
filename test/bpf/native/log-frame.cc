// Reading frames: good ones, and noise that ends where its memory ends.
#include <arpa/inet.h>

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "log_frame.h"

using namespace taphold;

namespace {

struct Held {
  std::unique_ptr<uint8_t[]> memory;
  Record* record() { return reinterpret_cast<Record*>(memory.get()); }
};

Held Hold(const std::vector<uint8_t>& bytes) {
  Held held{std::make_unique<uint8_t[]>(sizeof(Record) + bytes.size())};
  std::memcpy(held.record()->frame(), bytes.data(), bytes.size());
  held.record()->frame_bytes = static_cast<uint32_t>(bytes.size());
  return held;
}

std::vector<uint8_t> Tcp4(size_t option_bytes, size_t payload_bytes, uint8_t flags) {
  std::vector<uint8_t> frame(14 + 20 + 20 + option_bytes + payload_bytes);
  size_t ip_bytes = frame.size() - 14;
  frame[12] = 8;
  uint8_t* ip = frame.data() + 14;
  ip[0] = 0x45;
  ip[2] = static_cast<uint8_t>(ip_bytes >> 8);
  ip[3] = static_cast<uint8_t>(ip_bytes);
  ip[9] = 6;
  const uint8_t addresses[] = {192, 0, 2, 2, 192, 0, 2, 1};
  std::memcpy(ip + 12, addresses, sizeof(addresses));
  uint8_t* tcp = ip + 20;
  const uint8_t start[] = {0x9c, 0x40, 0, 80, 1, 2, 3, 4};
  std::memcpy(tcp, start, sizeof(start));
  tcp[12] = static_cast<uint8_t>((20 + option_bytes) / 4 << 4);
  tcp[13] = flags;
  return frame;
}

void Good() {
  Held held = Hold(Tcp4(12, 100, kTcpAck | kTcpFin));
  Frame frame = ParseFrame(held.record());
  CHECK(frame.tcp && frame.may_ask && !frame.opens());
  CHECK(frame.seq == 0x01020304 && frame.payload_bytes == 100 && frame.end() == 0x01020304 + 101);
  CHECK(ntohs(frame.key.client_port) == 40000 && ntohs(frame.key.guest_port) == 80 && frame.key.vlan == 0);
  CHECK(frame.key.client[10] == 0xff && frame.key.client[15] == 2 && frame.key.guest[15] == 1);

  Held syn = Hold(Tcp4(0, 0, kTcpSyn));
  syn.record()->vlan_proto = htons(0x8100);
  syn.record()->vlan_tci = htons(0xe064);
  frame = ParseFrame(syn.record());
  CHECK(frame.tcp && frame.opens() && !frame.may_ask && frame.end() == frame.seq + 1);
  CHECK(frame.key.vlan == 0x1064);

  // Padding behind the packet is no payload.
  std::vector<uint8_t> padded = Tcp4(0, 0, kTcpAck);
  padded.resize(60);
  CHECK(ParseFrame(Hold(padded).record()).payload_bytes == 0);

  std::vector<uint8_t> fragment = Tcp4(0, 10, kTcpAck);
  fragment[20] = 0x20;
  CHECK(!ParseFrame(Hold(fragment).record()).tcp && ParseFrame(Hold(fragment).record()).may_ask);
  std::vector<uint8_t> icmp = Tcp4(0, 10, kTcpAck);
  icmp[23] = 1;
  CHECK(!ParseFrame(Hold(icmp).record()).tcp && !ParseFrame(Hold(icmp).record()).may_ask);

  // For which service: as far as that can be told, as the gate tells it.
  auto service = [](const std::vector<uint8_t>& bytes) {
    Frame parsed = ParseFrame(Hold(bytes).record());
    CHECK(!(parsed.opaque && parsed.service));
    return parsed.opaque ? -1 : static_cast<int>(parsed.service);
  };
  CHECK(service(Tcp4(0, 0, kTcpAck)) == (6 << 16 | 80));
  CHECK(service(fragment) == -1);
  for (auto [protocol, expected] : {std::pair{1, 0}, {2, 0}, {89, 0}, {112, 0}, {132, 0},
                                    {4, -1}, {41, -1}, {47, -1}, {50, -1}, {51, -1}, {94, -1}, {253, -1}}) {
    std::vector<uint8_t> other = icmp;
    other[23] = static_cast<uint8_t>(protocol);
    CHECK(service(other) == expected && ParseFrame(Hold(other).record()).may_ask == (expected != 0));
  }
  std::vector<uint8_t> udp = Tcp4(0, 10, 0);
  udp[23] = 17;
  CHECK(service(udp) == (17 << 16 | 80));
  std::vector<uint8_t> options = Tcp4(8, 10, kTcpAck);  // of IP: the TCP header begins four bytes later
  options[14] = 0x46;
  std::memmove(options.data() + 38, options.data() + 34, 20);
  CHECK(service(options) == -1 && !ParseFrame(Hold(options).record()).tcp);
  options[23] = 2;  // as IGMP has them
  CHECK(service(options) == 0);
  std::vector<uint8_t> twice = Tcp4(0, 10, kTcpAck);
  twice[12] = 0x81;
  twice[13] = 0;
  CHECK(service(twice) == -1);
  std::vector<uint8_t> v6(14 + 40 + 20);
  v6[12] = 0x86;
  v6[13] = 0xdd;
  v6[14] = 0x60;
  for (auto [next, expected] : {std::pair{6, 6 << 16 | 80}, {17, 17 << 16 | 80}, {58, 0}, {0, -1}, {44, -1}}) {
    v6[20] = static_cast<uint8_t>(next);
    v6[57] = 80;
    CHECK(service(v6) == expected);
  }
  v6[20] = 0;
  for (auto [behind, expected] : {std::pair{58, 0}, {6, -1}, {0, -1}}) {
    v6[54] = static_cast<uint8_t>(behind);
    CHECK(service(v6) == expected && ParseFrame(Hold(v6).record()).may_ask == (expected != 0));
  }
  v6.resize(54);
  v6[20] = 6;
  CHECK(service(v6) == -1 && service(std::vector<uint8_t>(20)) == 0);
}

void Noise() {
  std::mt19937 random(6);
  for (int i = 0; i < 300000; i++) {
    std::vector<uint8_t> bytes = random() % 2 ? Tcp4(random() % 11 * 4, random() % 20, static_cast<uint8_t>(random()))
                                              : std::vector<uint8_t>(14 + random() % 90);
    if (bytes.size() > 54 && random() % 2) {
      bytes[12] = 0x86;
      bytes[13] = 0xdd;
      bytes[14] = 0x60;
      bytes[20] = 6;
    }
    for (uint32_t changes = random() % 6; changes; changes--) bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
    bytes.resize(random() % 3 ? bytes.size() : random() % (bytes.size() + 1));
    Held held = Hold(bytes);
    Frame frame = ParseFrame(held.record());
    Piece piece = PieceOf(held.record(), frame);
    CHECK(piece.length >= 1);
    if (frame.tcp) CHECK(frame.payload_bytes + 14 + 20 + 20 <= bytes.size());
  }
}

}  // namespace

int main() {
  Good();
  Noise();
  std::puts("ok");
}
