#include "compare_flow.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace taphold {

void PacketList::Append(Record* record) { InsertAfter(tail, record); }

void PacketList::InsertAfter(Record* before, Record* record) {
  Record*& link = before ? before->compared.next : head;
  record->compared.next = link;
  link = record;
  if (before == tail) tail = record;
}

void PacketList::PopHead() {
  Record* record = head;
  head = record->compared.next;
  if (!head) tail = nullptr;
  record->compared.next = nullptr;
}

void PacketList::Replace(Record* record, Record* by) {
  InsertAfter(record, by);
  Remove(record);
}

void PacketList::Remove(Record* record) {
  if (record == head) return PopHead();
  Record* before = head;
  while (before->compared.next != record) before = before->compared.next;
  before->compared.next = record->compared.next;
  if (record == tail) tail = before;
  record->compared.next = nullptr;
}

void Lag::Add(uint64_t lag_ns) {
  if (!known) {
    *this = {lag_ns, lag_ns / 2, true};
    return;
  }
  uint64_t difference_ns = lag_ns > mean_ns ? lag_ns - mean_ns : mean_ns - lag_ns;
  deviation_ns += difference_ns / 4 - deviation_ns / 4;
  mean_ns += lag_ns / 8 - mean_ns / 8;
}

uint64_t Lag::LimitNs(uint64_t first_ns, uint64_t min_ns, uint64_t max_ns) const {
  uint64_t limit_ns = known ? mean_ns + 4 * deviation_ns : first_ns;
  return std::min(std::max(limit_ns, min_ns), max_ns);
}

FlowTable::~FlowTable() {
  std::free(flows_);
  std::free(buckets_);
}

int FlowTable::Allocate(uint32_t max_flows, uint64_t secret) {
  uint32_t buckets = 1;
  while (buckets < max_flows) buckets *= 2;
  // From calloc, pages are only used once they are written to.
  flows_ = static_cast<CompareFlow*>(std::calloc(max_flows, sizeof(CompareFlow)));
  buckets_ = static_cast<uint32_t*>(std::calloc(buckets, sizeof(uint32_t)));
  if (!flows_ || !buckets_) return ENOMEM;
  max_flows_ = max_flows;
  bucket_mask_ = buckets - 1;
  secret_ = secret;
  return 0;
}

// Who does not know the secret cannot choose keys that meet in one bucket.
uint32_t* FlowTable::Bucket(const CompareKey& key) {
  const uint8_t* at = reinterpret_cast<const uint8_t*>(&key);
  uint64_t hash = secret_;
  for (size_t left = sizeof(key); left > 0;) {
    uint64_t word = 0;
    size_t count = std::min(left, sizeof(word));
    std::memcpy(&word, at, count);
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
    at += count;
    left -= count;
  }
  return &buckets_[hash & bucket_mask_];
}

CompareFlow* FlowTable::Find(const CompareKey& key) {
  for (uint32_t number = *Bucket(key); number; number = At(number)->next) {
    if (std::memcmp(&At(number)->key, &key, sizeof(key)) == 0) return At(number);
  }
  return nullptr;
}

CompareFlow* FlowTable::Add(const CompareKey& key) {
  return used_ < max_flows_ ? Occupy(&flows_[used_++], key) : nullptr;
}

CompareFlow* FlowTable::Candidate() {
  hand_ = (hand_ + 1) % max_flows_;
  return &flows_[hand_];
}

void FlowTable::Replace(CompareFlow* flow, const CompareKey& key) {
  uint32_t* link = Bucket(flow->key);
  while (*link != NumberOf(flow)) link = &At(*link)->next;
  *link = flow->next;
  *flow = CompareFlow{};
  Occupy(flow, key);
}

CompareFlow* FlowTable::Occupy(CompareFlow* flow, const CompareKey& key) {
  uint32_t* bucket = Bucket(key);
  flow->key = key;
  flow->next = *bucket;
  *bucket = NumberOf(flow);
  return flow;
}

}  // namespace taphold
