// Untag, as it is used for held packets, log inputs and shadow outputs, on packets
// whose memory ends where they do.
#include <arpa/inet.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "held_packet.h"
#include "input.h"

using namespace taphold;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  Input input(bytes, count);
  const struct {
    uint32_t magic;
    size_t tag_bytes;
  } kinds[] = {{HOLD_MAGIC, HOLD_TAG_BYTES}, {LOG_MAGIC, LOG_TAG_BYTES}, {SHADOW_MAGIC, SHADOW_TAG_BYTES}};
  const auto& kind = kinds[input.Below(3)];
  const bool sensible = input.Below(8) != 0, tagged = input.Below(2) != 0;
  VnetHeader vnet;
  auto header = reinterpret_cast<uint8_t*>(&vnet);
  for (size_t i = 0; i < sizeof(vnet); i++) header[i] = input.Byte();
  if (input.left() < kind.tag_bytes) return 0;

  std::unique_ptr<uint8_t[]> head(new uint8_t[kind.tag_bytes]);
  std::memcpy(head.get(), input.rest(), kind.tag_bytes);
  const size_t rest_bytes = input.left() - kind.tag_bytes;
  std::unique_ptr<uint8_t[]> memory(new uint8_t[sizeof(Record) + rest_bytes]);
  auto record = reinterpret_cast<Record*>(memory.get());
  std::memcpy(record->frame(), input.rest() + kind.tag_bytes, rest_bytes);
  if (sensible) {  // what a coverage-guided search would take long to find
    hold_tag tag;
    std::memcpy(&tag, head.get(), sizeof(tag));
    tag.ethertype = htons(HOLD_ETHERTYPE);
    tag.magic = kind.magic;
    tag.frame_bytes = static_cast<uint32_t>(rest_bytes - (tagged && rest_bytes >= 4 ? 4 : 0));
    std::memcpy(head.get(), &tag, sizeof(tag));
    if (tagged && rest_bytes >= 4) {
      // As the kernel inserts a VLAN tag: twelve bytes in.
      std::memcpy(record->frame(), head.get() + kind.tag_bytes - 4, 4);
      std::memmove(head.get() + 16, head.get() + 12, kind.tag_bytes - 16);
      head[12] = 0x81;
      head[13] = 0;
    }
  }
  if (Untag(kind.magic, head.get(), kind.tag_bytes, rest_bytes, &vnet, record)) {
    if (record->frame_bytes > rest_bytes || record->frame_bytes < ETH_HLEN) std::abort();
  }
  return 0;
}
