// The readers of frames: the input log's and the comparator's, on frames whose
// memory ends where they do.
#include <cstdlib>
#include <cstring>
#include <memory>

#include "compare_packet.h"
#include "log_frame.h"

using namespace taphold;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  std::unique_ptr<uint8_t[]> memory(new uint8_t[sizeof(Record) + count]);
  auto record = reinterpret_cast<Record*>(memory.get());
  std::memset(static_cast<void*>(record), 0, sizeof(*record));
  if (count) {
    // The first byte also says what the kernel has set aside.
    if (bytes[0] & 1) record->vlan_proto = 0x81;
    std::memset(record->vnet, bytes[0] & 2 ? bytes[count - 1] : 0, sizeof(record->vnet));
    std::memcpy(record->frame(), bytes, count);
  }
  record->frame_bytes = static_cast<uint32_t>(count);

  Frame frame = ParseFrame(record);
  PieceOf(record, frame);
  if (frame.tcp && frame.payload_bytes > count) std::abort();

  CompareKey key;
  if (!ParseCompared(record, &key)) return 0;
  const Compared& c = record->compared;
  if (size_t{c.payload_at} + c.payload_bytes > count) std::abort();
  Digest(record->frame() + c.payload_at, c.payload_bytes);
  // Both must see the same stream.
  if (frame.tcp && key.kind == FlowKind::kTcp && (c.seq != frame.seq || c.payload_bytes != frame.payload_bytes)) std::abort();
  return 0;
}
