#include "log_replay.h"

#include <algorithm>
#include <cstring>

namespace taphold {
namespace {

// Frames of a flow on their way at once: enough for a guest's receive window,
// too few to overrun its network card.
constexpr size_t kWindowFrames = 32;
// A flow that the BPF programs have not begun to follow by then, they never will.
constexpr uint64_t kUntrackedNs = 5'000'000;
// What clients are known to have must come, and where no reply has come yet, it may
// take long and clients have it: writes wait that much longer.
constexpr uint64_t kLongFactor = 5;
// But not for ever: the guest may have lost the way to some client.
constexpr uint64_t kAllFactor = 10;
// Whatever the progress, the whole takes no longer than so many times its limit.
constexpr uint64_t kMostFactor = 10;
// There is a step every millisecond or so.
constexpr uint64_t kLongestStepNs = 10'000'000;

// Sequence numbers wrap.
bool Before(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) < 0; }

}  // namespace

size_t Replayer::KeyHash::operator()(const shadow_key& key) const {
  uint64_t words[sizeof(key) / sizeof(uint64_t)];
  static_assert(sizeof(words) == sizeof(key), "a key is hashed whole");
  std::memcpy(words, &key, sizeof(words));
  uint64_t hash = 0;
  for (uint64_t word : words) hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
  return hash ^ hash >> 32;
}

bool Replayer::KeyEqual::operator()(const shadow_key& a, const shadow_key& b) const {
  return std::memcmp(&a, &b, sizeof(a)) == 0;
}

void Replayer::Begin(std::vector<Record*> log, uint64_t committed, bool active, uint64_t now_ns) {
  active_ = active;
  seen_ns_ = awake_ns_ = now_ns;
  begun_ns_ = moved_ns_ = now_ns;
  // Packets overtake each other on their way here.
  std::stable_sort(log.begin(), log.end(),
                   [](const Record* a, const Record* b) { return a->iseq < b->iseq; });
  stats_.logged_frames = log.size();
  committed_ = committed;
  DropHarmful(&log);
  for (Record* record : log) AddLogged(record, now_ns);
}

// A host that stood still has waited for nobody: its guest stood still, too.
uint64_t Replayer::Awake(uint64_t now_ns) {
  awake_ns_ += std::min(now_ns - seen_ns_, kLongestStepNs);
  seen_ns_ = now_ns;
  return awake_ns_;
}

void Replayer::Extend(Record* record, uint64_t now_ns) {
  now_ns = Awake(now_ns);
  stats_.logged_frames++;
  AddLogged(record, now_ns);
}

void Replayer::Finish(ReplayLimits limits, uint64_t now_ns) {
  now_ns = Awake(now_ns);
  limits_ = limits;
  active_ = false;
  begun_ns_ = moved_ns_ = now_ns;
  stats_ = {};
  for (Flow* flow : busy_) {
    flow->tries = 0;
    flow->owed = nullptr;  // from now on clients acknowledge by themselves
    stats_.logged_frames += flow->items.size() - flow->done;
    if (!flow->idle()) stats_.flows++;
  }
  for (auto& [number, service] : services_) Close(service.get(), now_ns);
}

void Replayer::AddLogged(Record* record, uint64_t now_ns) {
  Frame frame = ParseFrame(record);
  Flow* flow = FlowOf(frame);
  Service* service = flow->service;
  if (service && !active_) Close(service, now_ns);
  // A write that the checkpoint has brought holds nothing up, and does not make
  // the replies after it unseen.
  bool first = (record->flags & LOG_WRITE) && record->iseq > committed_ && record->iseq < FirstWrite(service);
  if (first && service) {
    service->first_write = record->iseq;
    Close(service, now_ns);
  } else if (first && frame.opaque) {
    first_opaque_ = record->iseq;
    for (auto& [number, any] : services_) Close(any.get(), now_ns);
  }
  Add(record, frame, flow);
}

// Its writes wait.
void Replayer::Close(Service* service, uint64_t now_ns) {
  if (service->open) closed_.push_back(service);
  service->open = false;
  service->moved_ns = now_ns;
}

bool Replayer::IsOpen(const Frame& frame) const {
  auto found = services_.find(frame.service);
  if (frame.service && found == services_.end()) return true;  // it is owed nothing
  return IsOpen(frame.service ? found->second.get() : nullptr);
}

uint64_t Replayer::FirstWrite(const Service* service) const {
  return service ? std::min(service->first_write, first_opaque_) : first_opaque_;
}

// What the guest has already read does no harm to an open connection, which
// knows its sequence numbers. But a connection that has come and gone would be
// opened again by its SYN, and its requests carried out twice. A segment that
// acknowledges something shows that the SYN before it had been answered. What
// is no TCP may be lost, and must not be doubled either.
void Replayer::DropHarmful(std::vector<Record*>* log) {
  std::unordered_set<shadow_key, KeyHash, KeyEqual> answered;
  auto is_harmful = [&](Record* record) {
    if (record->iseq > committed_) return false;
    Frame frame = ParseFrame(record);
    if (!frame.tcp) return true;
    if (frame.opens()) return answered.count(frame.key) != 0;
    if (frame.flags & kTcpAck) answered.insert(frame.key);
    return false;
  };
  // From the newest to the oldest.
  auto kept = log->end();
  for (auto at = log->end(); at != log->begin();) {
    if (!is_harmful(*--at)) *--kept = *at;
  }
  stats_.known_frames += static_cast<uint64_t>(kept - log->begin());
  log->erase(log->begin(), kept);
}

bool Replayer::Append(Record* record) {
  stats_.live_frames++;
  Frame frame = ParseFrame(record);
  auto found = flows_.find(KeyOf(frame));
  Flow* flow = found == flows_.end() ? nullptr : found->second.get();
  // A new request may be a write. What others were told before the takeover, the
  // guest must have said again by then.
  bool waits = frame.may_ask && !IsOpen(frame);
  if (!waits && (!flow || flow->idle())) {
    target_->Inject(record);
    return false;
  }
  if (waits) record->flags |= LOG_WRITE;
  Add(record, frame, flow ? flow : FlowOf(frame));
  return true;
}

shadow_key Replayer::KeyOf(const Frame& frame) {
  if (frame.tcp) return frame.key;
  shadow_key key{};
  key.guest_port = static_cast<uint16_t>(frame.service);
  key.reserved = static_cast<uint16_t>(1 + (frame.service >> 16));
  return key;
}

Replayer::Flow* Replayer::FlowOf(const Frame& frame) {
  std::unique_ptr<Flow>& flow = flows_[KeyOf(frame)];
  if (flow) return flow.get();
  flow = std::make_unique<Flow>();
  flow->key = KeyOf(frame);
  flow->tracked = frame.tcp;
  if (frame.tcp) stats_.flows++;
  if (!frame.service) return flow.get();
  std::unique_ptr<Service>& service = services_[frame.service];
  if (!service) {
    service = std::make_unique<Service>();
    service->open = true;
  }
  flow->service = service.get();
  service->flows.push_back(flow.get());
  return flow.get();
}

void Replayer::Add(Record* record, const Frame& frame, Flow* flow) {
  Item item{};
  item.record = record;
  item.end = frame.end();
  item.ack = frame.ack;
  item.may_ask = frame.may_ask;
  item.countable = frame.end() != frame.seq;
  item.flags = frame.flags;
  item.live = record->flags & LOG_LIVE;
  item.write = (record->flags & LOG_WRITE) && (frame.service || frame.opaque);
  items_.push_back(item);
  flow->items.push_back(&items_.back());
  if (!flow->busy) {
    flow->busy = true;
    busy_.push_back(flow);
  }
  if (!item.live && (frame.flags & kTcpAck) && (!flow->has_ack || Before(flow->client_ack, frame.ack))) {
    flow->has_ack = true;
    flow->client_ack = frame.ack;
    if (record->iseq <= FirstWrite(flow->service)) {
      flow->has_early_ack = true;
      flow->early_ack = frame.ack;
    }
  }
}

bool Replayer::Step(uint64_t now_ns) {
  now_ns = Awake(now_ns);
  stats_.duration_ns = now_ns - begun_ns_;
  bool stuck = now_ns - moved_ns_ >= limits_.total_ns || stats_.duration_ns >= kMostFactor * limits_.total_ns;
  if (!active_ && stuck) {
    Flush();
    return true;
  }
  // Once more if writes may go now: they should not wait for the next step.
  for (bool again = true; again;) {
    size_t kept = 0;
    for (Flow* flow : busy_) {
      if (!flow->idle() || flow->owed) Progress(flow, now_ns);
      flow->busy = !flow->idle() || flow->owed;
      if (flow->busy) busy_[kept++] = flow;
    }
    busy_.resize(kept);
    again = OpenServices(now_ns);
  }
  return quiet();
}

void Replayer::Progress(Flow* flow, uint64_t now_ns) {
  shadow_flow seen{};
  bool found = flow->tracked && target_->Look(flow->key, &seen);
  bool waiting = flow->next > flow->done;
  if (!found && waiting && now_ns - flow->sent_ns >= kUntrackedNs) flow->tracked = false;

  bool spoken = found && seen.state >= SHADOW_SYN_ACK;
  if (flow->owed && found && seen.state == SHADOW_KNOWN) PayAck(flow, seen);
  if (spoken && !flow->spoken && waiting && !flow->items[flow->done]->opens()) {
    flow->next = flow->done;  // what went in was only to make it speak
  }
  flow->spoken = spoken;

  while (!flow->idle() && IsOver(*flow, *flow->items[flow->done], seen)) {
    Item* item = flow->items[flow->done++];
    if (flow->done > flow->next) {
      flow->next = flow->done;
      stats_.known_frames++;
      item->sent = true;
    }
    flow->progress_ns = now_ns;
    flow->tries = 0;
    if (item->live) continue;
    moved_ns_ = now_ns;
    if (flow->service) flow->service->moved_ns = now_ns;
  }
  if (flow->fresh < flow->done) flow->fresh = flow->done;

  uint64_t since_ns = std::max(flow->sent_ns, flow->progress_ns);
  if (flow->next > flow->done && now_ns - since_ns >= limits_.retry_ns) {
    if (++flow->tries > limits_.tries && !active_) {
      Abandon(flow);
      return;
    }
    flow->next = flow->done;
  }
  while (flow->next < flow->items.size() && MaySend(*flow, *flow->items[flow->next])) {
    Send(flow, flow->items[flow->next], seen, now_ns);
  }
}

bool Replayer::IsOver(const Flow& flow, const Item& item, const shadow_flow& seen) const {
  bool on_its_way = flow.next > flow.done;
  // Clients repeat by themselves what they send now. A RST is never answered.
  if (!flow.tracked || item.live || (item.flags & kTcpRst) || seen.ended_ns) return on_its_way;
  // To an active secondary nothing goes in as a mere probe, at first.
  if (!item.countable) return on_its_way && (flow.spoken || active_);
  // This may also be so before it went in: the checkpoint had it.
  return flow.spoken && seen.acked && !Before(seen.rcv_ack, item.end) && (on_its_way || !item.opens());
}

bool Replayer::MaySend(const Flow& flow, const Item& item) const {
  if (item.write && !IsOpen(flow.service) && (item.live || item.record->iseq >= FirstWrite(flow.service))) return false;
  if (!flow.tracked) return true;
  size_t on_their_way = flow.next - flow.done;
  if (on_their_way && (item.opens() || !flow.spoken)) return false;
  return on_their_way < kWindowFrames;
}

void Replayer::Send(Flow* flow, Item* item, const shadow_flow& seen, uint64_t now_ns) {
  target_->Inject(item->record);
  if (item->sent) stats_.repeated_frames++;
  item->sent = true;
  flow->sent_ns = now_ns;
  flow->next++;
  // What only makes the guest speak does not count as sent.
  bool only_probe = flow->tracked && !flow->spoken && !item->opens() && !active_;
  if (!only_probe && flow->fresh < flow->next) flow->fresh = flow->next;
  if (active_ && flow->tracked && (item->flags & kTcpAck) && !(flow->owed && Before(item->ack, flow->owed->ack))) {
    // How much of it the guest could believe is known only once it has spoken;
    // if there is more to it than an acknowledgement, its own tells.
    flow->reach_known = seen.state == SHADOW_KNOWN;
    flow->reach = seen.snd_max + seen.seq_delta;
    bool too_much = flow->reach_known ? Before(flow->reach, item->ack) : !item->countable;
    flow->owed = too_much ? item : nullptr;
  }
  if (item->opens()) flow->spoken = false;
  if (flow->service && !only_probe && item->may_ask && !item->live && !item->asked &&
      item->record->iseq < FirstWrite(flow->service)) {
    if (flow->asks == 0) {
      flow->replies = seen.replies;
      flow->service->asking.push_back(flow);
    }
    item->asked = true;
    flow->asks++;
    flow->asked_ns = now_ns;
  }
}

// Clients acknowledge what the primary has sent, once.  When the guest has said
// as much, or more of it than before, it is told again.
void Replayer::PayAck(Flow* flow, const shadow_flow& seen) {
  uint32_t reach = seen.snd_max + seen.seq_delta;
  if (flow->reach_known && !Before(flow->reach, reach)) return;
  flow->reach_known = true;
  flow->reach = reach;
  target_->Inject(flow->owed->record);
  if (!Before(reach, flow->owed->ack)) flow->owed = nullptr;
}

// Of a guest that does not answer: what was logged is lost to it, what clients
// send now is not.
void Replayer::Abandon(Flow* flow) {
  for (size_t i = flow->done; i < flow->items.size(); i++) {
    Item* item = flow->items[i];
    if (item->live) {
      target_->Inject(item->record);
    } else {
      stats_.abandoned_frames++;
    }
    item->sent = true;
  }
  flow->done = flow->next = flow->fresh = flow->items.size();
  flow->asks = 0;
}

// True if there is one more whose writes may go.
bool Replayer::OpenServices(uint64_t now_ns) {
  auto opened = std::remove_if(closed_.begin(), closed_.end(), [&](Service* service) {
    bool patient = active_ || now_ns - service->moved_ns < kAllFactor * limits_.barrier_ns;
    return service->open = !patient || RepliesAreOut(service, now_ns);
  });
  bool any = opened != closed_.end();
  closed_.erase(opened, closed_.end());
  return any;
}

bool Replayer::RepliesAreOut(Service* service, uint64_t now_ns) const {
  // Never sent, and before the first write?  What has been sent is asking.
  for (const Flow* flow : service->flows) {
    if (!NothingUnsent(*flow)) return false;
  }
  for (std::vector<Flow*>& asking = service->asking; !asking.empty(); asking.pop_back()) {
    if (!RepliesAreOut(*asking.back(), now_ns)) return false;
  }
  return true;
}

bool Replayer::NothingUnsent(const Flow& flow) const {
  if (flow.fresh >= flow.items.size()) return true;
  const Item& item = *flow.items[flow.fresh];
  return item.live || item.record->iseq >= FirstWrite(flow.service);
}

bool Replayer::RepliesAreOut(const Flow& flow, uint64_t now_ns) const {
  if (flow.asks == 0) return true;
  uint64_t waited_ns = now_ns - flow.asked_ns;
  if (!flow.tracked) return waited_ns >= limits_.barrier_ns;
  shadow_flow seen{};
  if (!target_->Look(flow.key, &seen) || seen.ended_ns) return true;
  // While the primary speaks, it may have replied to writes that still wait here.
  bool has_ack = active_ ? flow.has_early_ack : flow.has_ack;
  uint32_t ack = active_ ? flow.early_ack : flow.client_ack;
  bool certain = flow.done < flow.fresh ||
                 (has_ack && seen.state == SHADOW_KNOWN && Before(seen.snd_max + seen.seq_delta, ack));
  if (certain) return !active_ && waited_ns >= kLongFactor * limits_.barrier_ns;
  uint32_t replies = seen.replies - flow.replies;
  // Several may have been answered at once. An active secondary that waits longer
  // is late with the write, and later still after the checkpoint that this costs.
  return replies >= flow.asks || waited_ns >= (replies || active_ ? 1 : kLongFactor) * limits_.barrier_ns;
}

void Replayer::Flush() {
  for (Item& item : items_) {
    if (item.sent) continue;
    target_->Inject(item.record);
    stats_.flushed_frames++;
  }
}

}  // namespace taphold
