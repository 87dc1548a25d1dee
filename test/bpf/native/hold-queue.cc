// The ring of held packets against a model of it: random reservations, commits
// and removals, in rings of many sizes.  A page that nobody may touch begins
// where a ring ends: it is compiled with -Dmmap=guarded_mmap and the same for
// munmap.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>

#include "queue.h"

using taphold::Queue;
using taphold::Record;

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                             \
    }                                                                           \
  } while (0)

namespace {

constexpr size_t kPage = 4096;
size_t Pages(size_t bytes) { return (bytes + kPage - 1) & ~(kPage - 1); }

}  // namespace

void* mmap(void*, size_t bytes, int protection, int flags, int fd, off_t) noexcept {
  long start = syscall(SYS_mmap, nullptr, Pages(bytes) + kPage, protection, flags, fd, 0);
  if (start == -1) return MAP_FAILED;
  mprotect(reinterpret_cast<void*>(start + static_cast<long>(Pages(bytes))), kPage, PROT_NONE);
  return reinterpret_cast<void*>(start + static_cast<long>(Pages(bytes) - bytes));
}

int munmap(void* start, size_t bytes) noexcept {
  uintptr_t first_page = reinterpret_cast<uintptr_t>(start) & ~(kPage - 1);
  return static_cast<int>(syscall(SYS_munmap, first_page, Pages(bytes) + kPage));
}

namespace {

struct Held {
  uint64_t time_ns;
  uint32_t frame_bytes;
};

uint8_t ByteAt(uint64_t time_ns, uint32_t at) { return static_cast<uint8_t>(time_ns * 131 + at * 7); }

size_t Room(size_t frame_bytes) { return (sizeof(Record) + frame_bytes + 15) & ~size_t{15}; }

void Exercise(std::mt19937& random, size_t ring_bytes, size_t max_frame_bytes, int steps) {
  auto below = [&](size_t limit) { return static_cast<size_t>(random() % limit); };
  Queue queue;
  CHECK(queue.Allocate(ring_bytes) == 0);
  std::deque<Held> model;
  size_t model_bytes = 0;
  uint64_t next_time_ns = 1;
  uint8_t* base = nullptr;
  // Fills and empties by turns, so that both ends are met often.
  bool filling = true;

  for (int i = 0; i < steps; i++) {
    if (below(200) == 0) filling = !filling;
    if (below(4) == 0 ? !filling : filling) {
      Record* record = queue.Reserve(max_frame_bytes);
      if (!record) {
        // There must be a good reason: no two records of this size would fit into what is free.
        size_t used = 0;
        for (const Held& held : model) used += Room(held.frame_bytes);
        CHECK(!model.empty() || ring_bytes < Room(max_frame_bytes) + sizeof(Record));
        CHECK(used + 2 * (Room(max_frame_bytes) + sizeof(Record)) > ring_bytes);
        filling = false;
        continue;
      }
      if (!base) base = reinterpret_cast<uint8_t*>(record);
      uint8_t* start = reinterpret_cast<uint8_t*>(record);
      CHECK(start >= base && (start - base) % 16 == 0);
      CHECK(start + Room(max_frame_bytes) <= base + ring_bytes);
      // A read may write anywhere in the room, and what it read be malformed.
      std::memset(start, 0xaa, sizeof(Record) + max_frame_bytes);
      if (below(8) == 0) continue;
      Held held{next_time_ns++, static_cast<uint32_t>(14 + below(max_frame_bytes - 13))};
      record->time_ns = held.time_ns;
      record->frame_bytes = held.frame_bytes;
      for (uint32_t at = 0; at < held.frame_bytes; at++) record->frame()[at] = ByteAt(held.time_ns, at);
      queue.Commit(record);
      model.push_back(held);
      model_bytes += held.frame_bytes;
    } else if (!model.empty()) {
      Record* record = queue.front();
      CHECK(record && record->time_ns == model.front().time_ns);
      CHECK(record->frame_bytes == model.front().frame_bytes);
      for (uint32_t at = 0; at < record->frame_bytes; at++) {
        CHECK(record->frame()[at] == ByteAt(record->time_ns, at));
      }
      queue.Pop();
      model_bytes -= model.front().frame_bytes;
      model.pop_front();
    }
    CHECK(queue.packets() == model.size());
    CHECK(queue.bytes() == model_bytes);
    CHECK((queue.front() == nullptr) == model.empty());
    if (below(16) == 0) {
      const Record* record = queue.front();
      for (const Held& held : model) {
        CHECK(record && record->time_ns == held.time_ns);
        record = queue.After(record);
      }
      CHECK(!record);
    }
  }
}

}  // namespace

int main() {
  std::mt19937 random(20181);
  for (int round = 0; round < 400; round++) {
    size_t max_frame_bytes = 14 + random() % 1500;
    // From a ring that takes nothing to one that takes many; aligned as the guard needs it.
    size_t ring_bytes = 16 + random() % (Room(max_frame_bytes) * (1 + random() % 40)) / 16 * 16;
    Exercise(random, ring_bytes, max_frame_bytes, 5000);
  }
  // Not quite enough, exactly enough and a little more for one, two and three records.
  for (size_t records = 1; records <= 3; records++) {
    for (size_t more = 0; more <= 64; more += 16) {
      Exercise(random, records * Room(100) + more, 100, 20000);
    }
  }
  std::puts("ok");
}
